//! The kernel files: what defines each of their functions on the CPU, and which measured ops they compute.

/// A Rust file that holds definitions.
#[derive(Debug)]
pub struct Source {
    /// Its path in the repository.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A file of `kernels/`.
#[derive(Debug)]
pub struct Entry {
    /// Its name without `.cu`.
    pub name: &'static str,
    /// The Rust files that define what it computes, the op's first; none if that needs no definition.
    pub sources: &'static [&'static Source],
    /// Its functions, and the names of the functions of `sources` that define them.
    pub functions: &'static [(&'static str, &'static [&'static str])],
    /// Ops of `benches/results`, or their first words.
    pub measured: &'static [&'static str],
    /// Why there is no definition, or whose it is; empty if nothing is to be said.
    pub note: &'static str,
}

static ADAMW: Source = Source { path: "src/ops/adamw.rs", text: include_str!("../../ops/adamw.rs") };
static ATTENTION: Source =
    Source { path: "src/ops/attention.rs", text: include_str!("../../ops/attention.rs") };
static EMBEDDING: Source =
    Source { path: "src/ops/embedding.rs", text: include_str!("../../ops/embedding.rs") };
static GLU: Source = Source { path: "src/ops/glu.rs", text: include_str!("../../ops/glu.rs") };
static LINEAR: Source = Source { path: "src/ops/linear.rs", text: include_str!("../../ops/linear.rs") };
static LINEAR_CROSS_ENTROPY: Source = Source {
    path: "src/ops/linear_cross_entropy.rs",
    text: include_str!("../../ops/linear_cross_entropy.rs"),
};
static LOG_SUM: Source = Source { path: "src/ops/log_sum.rs", text: include_str!("../../ops/log_sum.rs") };
static MASK: Source = Source { path: "src/ops/mask.rs", text: include_str!("../../ops/mask.rs") };
static NORM: Source = Source { path: "src/ops/norm.rs", text: include_str!("../../ops/norm.rs") };
static ROPE: Source = Source { path: "src/ops/rope.rs", text: include_str!("../../ops/rope.rs") };
static SAMPLE: Source = Source { path: "src/ops/sample.rs", text: include_str!("../../ops/sample.rs") };
static STEER: Source = Source { path: "src/ops/steer.rs", text: include_str!("../../ops/steer.rs") };
static WEIGHTS: Source =
    Source { path: "src/model/weights.rs", text: include_str!("../../model/weights.rs") };

/// What products of all kinds are defined by.
const PRODUCTS: &[&str] = &["forward", "adapter_forward", "backward", "weight_backward"];

/// Every file of `kernels/`, by name.
pub const ENTRIES: [Entry; 21] = [
    Entry {
        name: "adamw",
        sources: &[&ADAMW],
        functions: &[
            ("adamw_steps", &["step"]),
            ("adamw_square_sums", &["square_sum"]),
            ("adamw_total", &["square_sum"]),
        ],
        measured: &["adamw"],
        note: "",
    },
    Entry {
        name: "attention_backward",
        sources: &[&ATTENTION],
        functions: &[
            ("attention_backward_keys", &["backward"]),
            ("attention_backward_queries", &["backward"]),
        ],
        measured: &["attention backward"],
        note: "Compute capability 9.0 alone; attention_mma and attention_plain compute the same from the same definition.",
    },
    Entry {
        name: "attention_cached",
        sources: &[&ATTENTION],
        functions: &[
            ("attention_cached_store", &["store"]),
            ("attention_cached_plain", &["cached"]),
            ("attention_cached_split", &["cached"]),
        ],
        measured: &["attention cached", "attention store"],
        note: "",
    },
    Entry {
        name: "attention_forward",
        sources: &[&ATTENTION],
        functions: &[("attention_forward_tiles", &["forward"])],
        measured: &["attention forward"],
        note: "Compute capability 9.0 alone; attention_mma and attention_plain compute the same from the same definition.",
    },
    Entry {
        name: "attention_mma",
        sources: &[&ATTENTION],
        functions: &[
            ("attention_mma_forward", &["forward"]),
            ("attention_mma_queries", &["backward"]),
            ("attention_mma_keys", &["backward"]),
        ],
        measured: &[],
        note: "For cards without wgmma: the definition is that of attention_forward and attention_backward.",
    },
    Entry {
        name: "attention_plain",
        sources: &[&ATTENTION],
        functions: &[
            ("attention_plain_forward", &["forward"]),
            ("attention_plain_delta", &["head_backward"]),
            ("attention_plain_queries", &["backward"]),
            ("attention_plain_keys", &["backward"]),
        ],
        measured: &[],
        note: "For any head width and for f32; its δ serves every backward pass. The definition is that of attention_forward \
               and attention_backward.",
    },
    Entry {
        name: "cross_entropy",
        sources: &[&LINEAR_CROSS_ENTROPY],
        functions: &[("cross_entropy_rows", &["forward"])],
        measured: &["linear_cross_entropy"],
        note: "The product with the head before it is a gemm's; the figures are of both.",
    },
    Entry {
        name: "embedding",
        sources: &[&EMBEDDING],
        functions: &[
            ("embedding_forward", &["forward"]),
            ("embedding_scatter", &["scatter"]),
            ("embedding_backward", &["backward"]),
        ],
        measured: &["embedding"],
        note: "",
    },
    Entry {
        name: "gemm_mma",
        sources: &[&LINEAR],
        functions: &[("gemm_mma", PRODUCTS)],
        measured: &[],
        note: "For cards without wgmma: the definition is that of every product, in linear.",
    },
    Entry {
        name: "gemm_plain",
        sources: &[&LINEAR],
        functions: &[("gemm_plain", PRODUCTS)],
        measured: &[],
        note: "For f32, and rows that are not aligned: the definition is that of every product, in linear.",
    },
    Entry {
        name: "gemm_wgmma",
        sources: &[&LINEAR],
        functions: &[("gemm_wgmma", PRODUCTS)],
        measured: &["linear"],
        note: "Compute capability 9.0 alone; gemm_mma and gemm_plain compute the same from the same definition.",
    },
    Entry {
        name: "glu",
        sources: &[&GLU],
        functions: &[("glu_forward", &["forward"]), ("glu_backward", &["backward"])],
        measured: &["glu"],
        note: "",
    },
    Entry {
        name: "linear",
        sources: &[&LINEAR],
        functions: &[("linear_mask", &["masked"]), ("linear_mask_add", &["masked"])],
        measured: &[],
        note: "The products of linear are those of gemm_wgmma, gemm_mma and gemm_plain.",
    },
    Entry {
        name: "log_sum",
        sources: &[&LOG_SUM],
        functions: &[("log_sum_rows", &["forward"])],
        measured: &[],
        note: "",
    },
    Entry {
        name: "mask",
        sources: &[&MASK],
        functions: &[("mask_rows", &["apply"])],
        measured: &[],
        note: "",
    },
    Entry {
        name: "norm",
        sources: &[&NORM],
        functions: &[
            ("norm_forward", &["forward"]),
            ("norm_add_forward", &["add_forward"]),
            ("norm_backward", &["backward"]),
            ("norm_add_backward", &["add_backward"]),
        ],
        measured: &["norm"],
        note: "",
    },
    Entry {
        name: "random",
        sources: &[&WEIGHTS],
        functions: &[("random_normal", &["impl Source for Random"])],
        measured: &[],
        note: "",
    },
    Entry {
        name: "rope",
        sources: &[&ROPE, &NORM],
        functions: &[
            ("rope_forward", &["forward"]),
            ("rope_backward", &["backward"]),
            ("rope_backward_gain", &["backward"]),
            ("rope_angles", &["angles"]),
        ],
        measured: &["rope"],
        note: "",
    },
    Entry {
        name: "sample",
        sources: &[&SAMPLE],
        functions: &[("sample_draw", &["forward"])],
        measured: &["sample"],
        note: "",
    },
    Entry {
        name: "steer",
        sources: &[&STEER],
        functions: &[("steer_rows", &["add", "erase"])],
        measured: &[],
        note: "",
    },
    Entry {
        name: "tensor",
        sources: &[],
        functions: &[
            ("tensor_narrow", &[]),
            ("tensor_widen", &[]),
            ("tensor_fill", &[]),
            ("tensor_add", &[]),
        ],
        measured: &[],
        note: "No definition of its own: on the host each is one expression where it is needed, and the head says it.",
    },
];
