//! What a kernel takes of a multiprocessor, and how many of its blocks fit there.

use rayon::prelude::*;
use serde::Serialize;

use crate::device::compile::{self, Define};
use crate::device::gpu::Facts;
use crate::error::Result;

use super::variants::Use;

/// What ptxas says of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Name of the function.
    pub function: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of static shared memory a block.
    pub shared: u32,
    /// Bytes a thread that are stored to memory for want of registers.
    pub spills: u32,
}

/// Reads the functions off a log of ptxas (`-v`), in its order.
pub fn usage(log: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let function = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Usage { function, registers: 0, shared: 0, spills: 0 });
        }
        let Some(last) = all.last_mut() else { continue };
        if let Some(bytes) = before(line, " bytes spill stores") {
            last.spills = bytes;
        } else if let Some((_, rest)) = line.split_once("Used ") {
            last.registers = before(rest, " registers").unwrap_or_default();
            last.shared = before(rest, " bytes smem").unwrap_or_default();
        }
    }
    all
}

/// The number that stands before `unit`.
fn before(line: &str, unit: &str) -> Option<u32> {
    let (head, _) = line.split_once(unit)?;
    head.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What a multiprocessor has. Source: CUDA C++ Programming Guide, technical specifications by compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Multiprocessor {
    /// 32-bit registers.
    pub registers: u32,
    /// Bytes of shared memory.
    pub shared: u32,
    /// Threads that can be resident.
    pub threads: u32,
    /// Blocks that can be.
    pub blocks: u32,
}

impl Multiprocessor {
    /// Of a compute capability; of one that is not known, the least of all.
    pub fn of(capability: (u32, u32)) -> Self {
        let [kib, threads, blocks] = match capability {
            (8, 0) => [164, 2048, 32],
            (8, 9) | (12, _) => [100, 1536, 24],
            (9 | 10, _) => [228, 2048, 32],
            _ => [100, 1536, 16],
        };
        Self { registers: 1 << 16, shared: kib << 10, threads, blocks }
    }

    /// Blocks that fit, by what limits them: registers, shared memory, and threads and blocks at all. As the occupancy
    /// calculator of CUDA counts: registers by warp and in units of 256, a quarter of the warps on each of four
    /// schedulers; shared memory in units of 128 bytes, and a KiB a block for the system.
    pub fn fits(&self, threads: u32, registers: u32, shared: u32) -> [u32; 3] {
        let warps = threads.div_ceil(32).max(1);
        let each = (registers * 32).next_multiple_of(256).max(256);
        let by_registers = self.registers / 4 / each * 4 / warps;
        let by_shared = self.shared / (shared + 1024).next_multiple_of(128);
        [by_registers, by_shared, (self.threads / threads.max(1)).min(self.blocks)]
    }
}

/// One kernel as it is launched.
#[derive(Clone, Debug, Serialize)]
pub struct Resources {
    /// The function.
    pub function: String,
    /// What its products are, if it computes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<String>,
    /// Load-time constants.
    pub constants: Vec<Define>,
    /// Threads a block.
    pub threads: u32,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of static and of dynamic shared memory a block.
    pub shared: [u32; 2],
    /// Bytes a thread that spill to memory.
    pub spills: u32,
    /// Blocks that a multiprocessor has room for: by registers, by shared memory, by threads and blocks.
    pub fits: [u32; 3],
    /// The least of the three.
    pub resident: u32,
    /// Share of the multiprocessor's threads that these are.
    pub occupancy: f64,
}

/// Compiles each kernel for a card. A function that has no code for its architecture is left out.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if NVRTC is missing; [`Error::Compile`](crate::Error::Compile).
pub fn resources(uses: &[Use], facts: &Facts) -> Result<Vec<Resources>> {
    let room = Multiprocessor::of(facts.capability);
    let one = |used: &Use| -> Result<Option<Resources>> {
        let variant = &used.variant;
        let log = compile::compile(variant.source, &variant.defines, facts.capability)?.log;
        let found = usage(&log).into_iter().find(|usage| usage.function == variant.function);
        Ok(found.map(|usage| {
            let (threads, dynamic) = (variant.threads as u32, variant.shared as u32);
            let fits = room.fits(threads, usage.registers, usage.shared + dynamic);
            let resident = fits.into_iter().min().unwrap_or_default();
            Resources {
                function: usage.function,
                products: used.products.clone(),
                constants: variant.defines.clone(),
                threads,
                registers: usage.registers,
                shared: [usage.shared, dynamic],
                spills: usage.spills,
                fits,
                resident,
                occupancy: f64::from(resident * threads) / f64::from(room.threads),
            }
        }))
    };
    let all: Vec<Option<Resources>> = uses.par_iter().map(one).collect::<Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "ptxas info    : 16 bytes gmem\n\
            ptxas info    : Compiling entry function 'norm_backward' for 'sm_90a'\n\
            ptxas info    : Function properties for norm_backward\n\
            ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
            ptxas info    : Used 126 registers, used 16 barriers, 8 bytes cumulative stack size, 2560 bytes smem\n\
            ptxas info    : Compiling entry function 'tensor_add' for 'sm_90a'\n\
            ptxas info    : Used 24 registers, used 0 barriers\n";
        let expected = [("norm_backward", 126, 2560, 4), ("tensor_add", 24, 0, 0)];
        let expected = expected.map(|(function, registers, shared, spills)| Usage {
            function: function.into(),
            registers,
            shared,
            spills,
        });
        assert_eq!(usage(log), expected);
    }

    /// Against cudaOccupancyMaxActiveBlocksPerMultiprocessor's rules, by hand.
    #[test]
    fn blocks_fit_by_the_scarcest() {
        let hopper = Multiprocessor::of((9, 0));
        // 168 registers: 5,376 a warp, 3 warps a quarter, 12 in all.
        assert_eq!(hopper.fits(384, 168, 197_760), [1, 1, 5]);
        assert_eq!(hopper.fits(256, 32, 0), [8, 228, 8]);
        assert_eq!(hopper.fits(32, 40, 3072), [48, 57, 32]);
        assert_eq!(Multiprocessor::of((8, 9)).fits(1024, 64, 0)[0], 1);
    }
}
