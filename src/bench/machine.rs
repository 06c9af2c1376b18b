//! [`Machine`]: where and when figures were read.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::device::Device;
use crate::model::place::Place;

/// Where and when the figures were read.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The card, or the CPU's architecture and threads.
    pub name: String,
    /// The element type of activations: "bf16", "f32".
    pub precision: &'static str,
    /// Minute in universal time: "2026-11-25T08:30Z".
    pub date: String,
    /// What the card was like.
    pub state: State,
}

/// The card at the end of the run, as far as nvidia-smi says.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Clock of the multiprocessors, in MHz.
    pub clock: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
}

impl Machine {
    /// This machine, this minute; [`State::read`] adds the card's state once the work is done.
    pub fn here(place: Place) -> Self {
        let name = match place.device {
            Device::Cuda(gpu) => gpu.facts().name.clone(),
            Device::Cpu => {
                format!("{} CPU, {} threads", std::env::consts::ARCH, rayon::current_num_threads())
            }
        };
        Self { name, precision: place.real.name(), date: now(), state: State::default() }
    }
}

impl State {
    /// The card's state now, as nvidia-smi tells it; nothing on the CPU.
    pub fn read(place: Place) -> Self {
        if place.device == Device::Cpu {
            return Self::default();
        }
        let query = ["--query-gpu=clocks.sm,temperature.gpu", "--format=csv,noheader,nounits", "--id=0"];
        let Ok(output) = Command::new("nvidia-smi").args(query).output() else { return Self::default() };
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text.trim().split(',').map(|number| number.trim().parse().ok());
        Self { clock: numbers.next().flatten(), temperature: numbers.next().flatten() }
    }
}

/// The minute, in universal time.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    let [year, month, day] = date(days);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}Z", minutes / 60, minutes % 60)
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(mut days: u64) -> [u64; 3] {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    [year, month, days + 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let expected =
            [(0, [1970, 1, 1]), (11_016, [2000, 2, 29]), (20_513, [2026, 3, 1]), (20_818, [2026, 12, 31])];
        for (days, day) in expected {
            assert_eq!(date(days), day);
        }
    }
}
