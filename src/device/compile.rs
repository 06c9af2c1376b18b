//! Kernels from source to machine code: NVRTC, and a cache of its output on disk.
//!
//! The sources in `kernels/` are part of the binary. They are compiled for the card of the machine, with the sizes of
//! the model as load-time constants, and need no CUDA header. Compiling needs NVRTC but no GPU.

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cudarc::nvrtc::sys;
use sha2::{Digest, Sha256};

use super::file;
use crate::error::{Error, Result};

/// A load-time constant: its name and value.
pub type Define = (&'static str, i64);

/// A file of `kernels/` and its text.
type SourceFile = (&'static str, &'static str);

/// The files that kernels include.
const HEADERS: &[SourceFile] = &[
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("attention.cuh", include_str!("../../kernels/attention.cuh")),
    ("column_sums.cuh", include_str!("../../kernels/column_sums.cuh")),
    ("exponential_sum.cuh", include_str!("../../kernels/exponential_sum.cuh")),
    ("hopper.cuh", include_str!("../../kernels/hopper.cuh")),
    ("philox.cuh", include_str!("../../kernels/philox.cuh")),
    ("slices.cuh", include_str!("../../kernels/slices.cuh")),
    ("tile.cuh", include_str!("../../kernels/tile.cuh")),
];

/// The kernel files; elsewhere their names are given without `.cu`.
const SOURCES: &[SourceFile] = &[
    ("adamw.cu", include_str!("../../kernels/adamw.cu")),
    ("attention_backward.cu", include_str!("../../kernels/attention_backward.cu")),
    ("attention_cached.cu", include_str!("../../kernels/attention_cached.cu")),
    ("attention_forward.cu", include_str!("../../kernels/attention_forward.cu")),
    ("attention_mma.cu", include_str!("../../kernels/attention_mma.cu")),
    ("attention_plain.cu", include_str!("../../kernels/attention_plain.cu")),
    ("cross_entropy.cu", include_str!("../../kernels/cross_entropy.cu")),
    ("embedding.cu", include_str!("../../kernels/embedding.cu")),
    ("gemm_mma.cu", include_str!("../../kernels/gemm_mma.cu")),
    ("gemm_plain.cu", include_str!("../../kernels/gemm_plain.cu")),
    ("gemm_wgmma.cu", include_str!("../../kernels/gemm_wgmma.cu")),
    ("glu.cu", include_str!("../../kernels/glu.cu")),
    ("linear.cu", include_str!("../../kernels/linear.cu")),
    ("log_sum.cu", include_str!("../../kernels/log_sum.cu")),
    ("mask.cu", include_str!("../../kernels/mask.cu")),
    ("norm.cu", include_str!("../../kernels/norm.cu")),
    ("random.cu", include_str!("../../kernels/random.cu")),
    ("rope.cu", include_str!("../../kernels/rope.cu")),
    ("sample.cu", include_str!("../../kernels/sample.cu")),
    ("steer.cu", include_str!("../../kernels/steer.cu")),
    ("tensor.cu", include_str!("../../kernels/tensor.cu")),
];

/// Names of all kernel files, without `.cu`.
pub fn sources() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| name.trim_end_matches(".cu"))
}

/// Machine code, and the compiler's report on it: registers, spills, warnings.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// A CUBIN.
    pub cubin: Vec<u8>,
    /// The log of NVRTC and ptxas.
    pub log: String,
}

/// NVRTC's name of an architecture: `sm_90a` for compute capability 9.0. From 9.0 on, code that uses the
/// tensor-core instructions runs on that one architecture only, which the `a` stands for.
pub fn architecture((major, minor): (u32, u32)) -> String {
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

/// The compute capability of an architecture's name: `sm_90a`, `sm_90` or `9.0`.
pub fn capability(name: &str) -> Option<(u32, u32)> {
    let digits: String = name.trim_start_matches("sm_").trim_end_matches('a').replace('.', "");
    let number: u32 = digits.parse().ok()?;
    Some((number / 10, number % 10))
}

/// Compiles `kernels/SOURCE.cu`.
///
/// # Errors
/// [`Error::Cuda`] if NVRTC is missing; [`Error::Compile`] with its log if it refuses the source.
pub fn compile(source: &str, defines: &[Define], capability: (u32, u32)) -> Result<Compiled> {
    find_nvrtc()?;
    let text = text(source);
    let options = options(defines, capability);
    let c = |text: &str| CString::new(text).expect("sources and options hold no NUL");
    let headers: Vec<[CString; 2]> = HEADERS.iter().map(|(name, text)| [c(name), c(text)]).collect();
    let [names, texts] = [0, 1].map(|i| headers.iter().map(|h| h[i].as_ptr()).collect::<Vec<_>>());
    let (text, file) = (c(text), c(&format!("{source}.cu")));
    let options: Vec<CString> = options.iter().map(|option| c(option)).collect();
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let failed =
        |what: &str, code| Error::Cuda(format!("{what} failed with {code:?} on kernels/{source}.cu"));
    // SAFETY: as the C functions of nvrtc.h ask: every pointer is to a live NUL-terminated string or to an array of the
    // length passed beside it; the two buffers have the sizes that NVRTC gives; the program is destroyed once, at the end.
    unsafe {
        let mut program = std::ptr::null_mut();
        let count = HEADERS.len() as c_int;
        sys::nvrtcCreateProgram(
            &raw mut program,
            text.as_ptr(),
            file.as_ptr(),
            count,
            texts.as_ptr(),
            names.as_ptr(),
        )
        .result()
        .map_err(|code| failed("nvrtcCreateProgram", code))?;
        let code = sys::nvrtcCompileProgram(program, options.len() as c_int, options.as_ptr());
        let mut size = 0;
        let mut log = Vec::new();
        if sys::nvrtcGetProgramLogSize(program, &raw mut size).result().is_ok() {
            log.resize(size, 0u8);
            // If the log cannot be read it stays empty; the error code still says what happened.
            let _ = sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        }
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        let mut cubin = Vec::new();
        let mut read = code.result();
        if read.is_ok() {
            read = sys::nvrtcGetCUBINSize(program, &raw mut size).result();
            cubin.resize(size, 0u8);
            read = read.and_then(|()| sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result());
        }
        sys::nvrtcDestroyProgram(&raw mut program)
            .result()
            .map_err(|code| failed("nvrtcDestroyProgram", code))?;
        match read {
            Ok(()) => Ok(Compiled { cubin, log }),
            Err(code) => Err(Error::Compile { kernel: source.into(), what: format!("{code:?}"), log }),
        }
    }
}

/// The machine code of [`compile`], from the cache if it holds it. A cache entry is the code behind its SHA-256; an entry
/// whose hash does not match is compiled again. If the cache cannot be written, the result is the same but takes longer.
///
/// # Errors
/// As [`compile`].
pub fn cached(source: &str, defines: &[Define], capability: (u32, u32)) -> Result<Vec<u8>> {
    let Some(path) = cache_folder().map(|dir| dir.join(key(source, defines, capability) + ".cubin")) else {
        return Ok(compile(source, defines, capability)?.cubin);
    };
    if let Some(code) = std::fs::read(&path).ok().and_then(|bytes| checked(&bytes).map(<[u8]>::to_vec)) {
        return Ok(code);
    }
    let code = compile(source, defines, capability)?.cubin;
    if let Some(dir) = path.parent()
        && std::fs::create_dir_all(dir).is_ok()
    {
        let _ = file::replace(&path, |out| {
            out.write_all(&Sha256::digest(&code))?;
            out.write_all(&code)
        });
    }
    Ok(code)
}

/// The code of a cache entry, if its hash matches.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, code) = bytes.split_at_checked(32)?;
    (Sha256::digest(code)[..] == *hash).then_some(code)
}

/// `EMLAB_CACHE`, or `emlab` in the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Some(set("EMLAB_CACHE").or_else(|| Some(user()?.join("emlab")))?.join("kernels"))
}

/// SHA-256, in hexadecimal, over all that decides the machine code: the source and what it includes, the options, NVRTC.
pub fn key(source: &str, defines: &[Define], capability: (u32, u32)) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    part(env!("CARGO_PKG_VERSION"));
    part(&nvrtc_version().map_or(String::new(), |(major, minor)| format!("{major}.{minor}")));
    part(source);
    part(text(source));
    for text in included(text(source)) {
        part(text);
    }
    for option in options(defines, capability) {
        part(&option);
    }
    format!("{:x}", hash.finalize())
}

/// The headers that a text includes, and those that they include, each once, in the order of [`HEADERS`].
fn included(text: &str) -> impl Iterator<Item = &'static str> {
    let mut found = [false; HEADERS.len()];
    let mut texts = vec![text];
    while let Some(text) = texts.pop() {
        for (found, (name, header)) in found.iter_mut().zip(HEADERS) {
            if !*found && text.contains(&format!("#include \"{name}\"")) {
                *found = true;
                texts.push(header);
            }
        }
    }
    HEADERS.iter().zip(found).filter(|(_, found)| *found).map(|((_, text), _)| *text)
}

fn options(defines: &[Define], capability: (u32, u32)) -> Vec<String> {
    let (major, minor) = capability;
    let mut options = vec![
        format!("--gpu-architecture={}", architecture(capability)),
        "--std=c++17".into(),
        "--ptxas-options=-v".into(),
        format!("-DARCH={major}{minor}"),
    ];
    options.extend(defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    options
}

/// The text of `kernels/SOURCE.cu`.
pub fn text(source: &str) -> &'static str {
    let found = SOURCES.iter().find(|(name, _)| name.strip_suffix(".cu") == Some(source));
    found.unwrap_or_else(|| panic!("no kernels/{source}.cu in the binary")).1
}

/// Major and minor version of NVRTC, if it is installed.
pub fn nvrtc_version() -> Option<(i32, i32)> {
    find_nvrtc().ok()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: as nvrtcVersion(int *, int *).
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result().ok()?;
    Some((major, minor))
}

/// Loads NVRTC: the one that the system's loader finds, else that of `CUDA_HOME`, else that of the Python package
/// nvidia-cuda-nvrtc.
///
/// # Errors
/// [`Error::Cuda`] saying how to get it.
fn find_nvrtc() -> Result<()> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: looks a library up by name and loads it; its initialisers are NVIDIA's.
        if unsafe { sys::is_culib_present() } {
            return true;
        }
        for library in candidates() {
            // SAFETY: loads a library that NVIDIA ships under this name. It stays loaded, so that a later look-up by
            // its plain name finds it.
            if let Ok(library) = unsafe { libloading::Library::new(library) } {
                std::mem::forget(library);
                // SAFETY: as above.
                return unsafe { sys::is_culib_present() };
            }
        }
        false
    });
    if *found {
        return Ok(());
    }
    let hint = "install the CUDA toolkit, set CUDA_HOME, or `pip install nvidia-cuda-nvrtc`";
    Err(Error::Cuda(format!("NVRTC, which compiles the kernels, was not found: {hint}")))
}

/// Files that may be NVRTC, the preferred first.
fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(std::env::var_os(name).map(|home| Path::new(&home).join("lib64")));
    }
    folders.push("/usr/local/cuda/lib64".into());
    // The wheels of all CUDA versions install into the package `nvidia`: nvidia/cu13/lib, nvidia/cuda_nvrtc/lib.
    let script = "import nvidia\nfor path in nvidia.__path__: print(path)";
    if let Ok(output) = Command::new("python3").args(["-c", script]).output() {
        for package in String::from_utf8_lossy(&output.stdout).lines() {
            let inside = std::fs::read_dir(package).into_iter().flatten().flatten();
            folders.extend(inside.map(|entry| entry.path().join("lib")));
        }
    }
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libnvrtc.so")
        })
        .collect();
    // The newest first; within a version the shorter name.
    files.sort_by(|a, b| b.cmp(a));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_everything_that_determines_the_code() {
        let source = sources().next().unwrap();
        let first = key(source, &[("REAL_IS_FLOAT", 0)], (9, 0));
        assert_ne!(first, key(source, &[("REAL_IS_FLOAT", 1)], (9, 0)));
        assert_ne!(first, key(source, &[("REAL_IS_FLOAT", 0)], (8, 0)));
        assert_eq!(first, key(source, &[("REAL_IS_FLOAT", 0)], (9, 0)));
    }

    #[test]
    fn the_key_depends_on_what_is_included_and_on_no_other_header() {
        let of = |name: &str| HEADERS.iter().find(|(header, _)| *header == name).unwrap().1;
        let all = |source| included(text(source)).collect::<Vec<_>>();
        assert_eq!(all("mask"), [of("prelude.cuh")]);
        let expected = ["prelude.cuh", "attention.cuh", "hopper.cuh", "tile.cuh"].map(of);
        assert_eq!(all("attention_forward"), expected);
    }

    #[test]
    fn a_damaged_cache_entry_is_not_used() {
        let code = b"machine code";
        let mut entry = Sha256::digest(code).to_vec();
        entry.extend(code);
        assert_eq!(checked(&entry), Some(&code[..]));
        entry[40] ^= 1;
        assert_eq!(checked(&entry), None);
        assert_eq!(checked(&entry[..20]), None);
    }
}
