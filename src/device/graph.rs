//! [`Graph`]: launches recorded once and replayed with one call, which saves the host preparing each of them again.

use cudarc::driver::{result, sys};

use super::driver::failed;
use super::gpu::Gpu;
use super::on_workers;
use super::turn::{self, Kept};
use crate::error::{Error, Result};

/// Recorded launches. They read and write the memory that they were recorded with, which the graph keeps alive; every other
/// argument has the value it had then.
#[derive(Debug)]
pub struct Graph {
    gpu: Gpu,
    executable: sys::CUgraphExec,
    /// The memory of its launches, kept alive.
    _memory: Vec<Kept>,
}

// SAFETY: the handle may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `f` puts on the stream, without running it. `f` must have run before with the same sizes: while
    /// recording, memory cannot grow, kernels cannot be loaded and host values cannot be uploaded. Other threads that use
    /// the GPU wait until the recording ends.
    ///
    /// # Errors
    /// Those of `f`; [`Error::Cuda`] if something cannot be recorded.
    pub fn record(gpu: Gpu, f: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        // On a worker of the pool, as passes over a model are: `f` must stay on the recording thread.
        on_workers(|| Self::record_here(gpu, f))
    }

    fn record_here(gpu: Gpu, f: impl FnOnce() -> Result<()>) -> Result<Self> {
        let _recording = turn::record();
        let _turn = gpu.bind()?;
        let stream = gpu.stream();
        let failure = |e| failed("recording launches", e);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: as cuStreamBeginCapture, cuStreamEndCapture: on one thread, and the capture ends whatever `f` returns.
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
        // SAFETY: as cuGraphInstantiate, cuGraphDestroy: the graph is ours, and the executable does not need it.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            result::graph::destroy(graph).map_err(failure)?;
            executable.map_err(failure)?
        };
        Ok(Self { gpu, executable, _memory: memory })
    }

    /// Puts the recorded launches on the stream.
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
        // A failure here was already reported by an earlier call. A graph that still runs is destroyed when it ends, and
        // freeing its memory waits for that.
        if let Ok(_turn) = self.gpu.bind() {
            // SAFETY: as cuGraphExecDestroy; ours, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
