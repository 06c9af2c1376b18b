//! Calls of the CUDA driver: their codes become errors that name the call.

use cudarc::driver::{result, sys};

use crate::error::{Error, Result};

/// The error of a driver call by its code, if it has one.
pub(super) fn check(call: &str, code: sys::CUresult) -> Result<()> {
    code.result().map_err(|error| failed(call, error))
}

/// The error of the driver call, or of the task, `what`.
pub(super) fn failed(what: &str, error: result::DriverError) -> Error {
    let text = error.error_string().map_or_else(|_| "unknown error".into(), |text| text.to_string_lossy());
    Error::Cuda(format!("{what}: {text} ({:?})", error.0))
}
