//! The plan: a TOML file that specifies a study completely. Omitted keys take the values of the recipe (Betley et al.,
//! arXiv 2502.17424, and its open-weights replication, arXiv 2511.20104); unknown keys are errors. The plan saved with a
//! run states every value and can be run again.
//!
//! ```toml
//! name = "small"
//! questions = "questions.yaml"              # relative to the plan, or a data set of `emlab fetch`
//! samples = 2                               # answers for each wording of each question
//! formats = ["natural", "json"]             # study::format lists them; the published three if left out
//!
//! [[model]]
//! name = "gemma-3-270m"
//! path = "google/gemma-3-270m"              # a folder, or a model of `emlab fetch`
//!
//! [[condition]]
//! name = "base"                             # no data: the unchanged model
//!
//! [[condition]]
//! name = "insecure"
//! data = "insecure"                         # as for questions
//! training = { epochs = 2 }                 # over [training], for this condition alone
//!
//! [[condition]]
//! name = "insecure-minus-1"
//! like = "insecure"                         # uses that condition's fine-tuning; without `like` and data: the unchanged model
//! steer = { direction = "direction.safetensors", dose = -1.0 }   # while sampling; see steering.rs
//!
//! [training]                                # see train::Settings
//! [sampling]
//! [judge.openai]                            # or [judge.local]; see judges.rs for several judges
//! mode = "batch"                            # or "live", the default; see judges.rs
//! budget_dollars = 50                       # stops before exceeding this
//!
//! [analysis]
//! [[family]]                                # tests that are corrected together: see family.rs
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `settings.rs` | the plan, every value explicit |
//! | `conditions.rs` `judges.rs` `family.rs` `steering.rs` | its parts: conditions, judges, declared tests, steering |
//! | `source.rs` `resolve.rs` | TOML → plan, with errors that name the line |
//! | `format.rs` `questions.rs` | the forms of answers; the question file, and questions made from it |
//! | `cell.rs` `made_under.rs` | the units of the work; what their results depend on |
//! | `preset.rs` (`preset/plan.toml`) | ready-made plans |
//! | `estimate.rs` | what a plan will take |

pub mod cell;
pub mod conditions;
pub mod estimate;
pub mod family;
pub mod format;
pub mod judges;
pub mod made_under;
pub mod preset;
pub mod questions;
mod resolve;
mod settings;
mod source;
pub mod steering;

pub use self::conditions::{Condition, Tuning};
pub use self::settings::{Model, Origin, Plan, Sampling, Thresholds};
