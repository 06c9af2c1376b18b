//! [`Graph`]: launches recorded once and put on the stream again in one call: the host prepares nothing twice.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::gpu::{Gpu, failed};
use super::memory::Allocation;
use super::{on_workers, turn};
use crate::error::{Error, Result};

/// Recorded launches. They read and write the memory that they were recorded with, which lives as long as they do, and
/// take every other argument as it was.
#[derive(Debug)]
pub struct Graph {
    gpu: Gpu,
    executable: sys::CUgraphExec,
    /// What it uses.
    _memory: Vec<Arc<Allocation>>,
}

// SAFETY: the handle may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `f` puts on the stream; none of it runs. `f` must have run before with the same sizes: memory that
    /// would have to grow, a kernel that would have to be loaded and host values are refused. Other threads that ask
    /// anything of the GPU wait meanwhile.
    ///
    /// # Errors
    /// Those of `f`; [`Error::Cuda`] if something cannot be recorded.
    pub fn record(gpu: Gpu, f: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        // On a worker, where passes over a model run: who records is one thread.
        on_workers(|| Self::record_here(gpu, f))
    }

    fn record_here(gpu: Gpu, f: impl FnOnce() -> Result<()>) -> Result<Self> {
        let _recording = turn::record();
        let _turn = gpu.bind()?;
        let stream = gpu.stream();
        let failure = |e| failed("recording launches", e);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: as cuStreamBeginCapture, cuStreamEndCapture: on one thread, the capture is ended in any case.
        let (outcome, graph, memory) = unsafe {
            result::stream::begin_capture(stream, mode).map_err(failure)?;
            let outcome = f();
            (outcome, result::stream::end_capture(stream), turn::recorded())
        };
        outcome?;
        let graph = graph.map_err(failure)?;
        if graph.is_null() {
            return Err(Error::Cuda("recording launches: the driver gave no graph".into()));
        }
        // SAFETY: as cuGraphInstantiate, cuGraphDestroy: the graph is ours, and the executable stands on its own.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            result::graph::destroy(graph).map_err(failure)?;
            executable.map_err(failure)?
        };
        Ok(Self { gpu, executable, _memory: memory })
    }

    /// Puts everything on the stream again.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn launch(&self) -> Result<()> {
        let _turn = self.gpu.bind()?;
        // SAFETY: as cuGraphLaunch; the memory that it uses is held.
        unsafe { result::graph::launch(self.executable, self.gpu.stream()) }
            .map_err(|e| failed("cuGraphLaunch", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // What fails here has failed before, and was reported then. A graph that still runs is destroyed when it ends;
        // freeing its memory waits for that.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: as cuGraphExecDestroy; ours, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
