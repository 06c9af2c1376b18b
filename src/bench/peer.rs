//! Times of another engine, from a table with the columns of [`super::report`].

use std::path::Path;

use crate::Result;
use crate::error::Error;

/// One way in which the other engine does one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// As [`Case::op`](super::case::Case::op).
    pub op: String,
    /// The card whose sizes these are.
    pub model: String,
    /// As [`Case::sizes`](super::case::Case::sizes).
    pub sizes: String,
    /// The library or kernel: "cudnn", "torch.compile".
    pub via: String,
    /// Median of its runs.
    pub milliseconds: f64,
    /// The card it ran on.
    pub gpu: String,
}

/// Reads the rows that have a time; columns are known by their names, in any order.
///
/// # Errors
/// [`Error::Io`] or [`Error::Line`].
pub fn read(path: &Path) -> Result<Vec<Peer>> {
    parse(path, &std::fs::read_to_string(path).map_err(Error::io(path))?)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Peer>> {
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.is_empty());
    let (head, at) = lines.next().unwrap_or(("", 1));
    let head: Vec<&str> = head.split(',').collect();
    let column = |name: &str| {
        let missing = || Error::line(path, at, format!("no column `{name}`: not a table of `emlab bench`"));
        head.iter().position(|known| *known == name).ok_or_else(missing)
    };
    let [op, model, sizes, via, ms, gpu] =
        [column("op")?, column("model")?, column("case")?, column("via")?, column("ms")?, column("gpu")?];
    let mut peers = Vec::new();
    for (line, number) in lines {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != head.len() {
            let what = format!("{} fields under {} columns", fields.len(), head.len());
            return Err(Error::line(path, number, what));
        }
        if fields[ms].is_empty() {
            continue;
        }
        let milliseconds = fields[ms].parse().ok().filter(|ms: &f64| *ms > 0.0 && ms.is_finite());
        let Some(milliseconds) = milliseconds else {
            return Err(Error::line(path, number, format!("`{}` is no time in milliseconds", fields[ms])));
        };
        let text = |column: usize| fields[column].to_owned();
        peers.push(Peer {
            op: text(op),
            model: text(model),
            sizes: text(sizes),
            via: text(via),
            gpu: text(gpu),
            milliseconds,
        });
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_rows_without_a_time_left_out() {
        let path = Path::new("peer.csv");
        let text =
            "ms,op,model,case,via,gpu\n0.5,glu forward,m,N=1 F=2,eager,H100\n,glu forward,m,N=1 F=2,x,H100\n";
        let peers = parse(path, text).unwrap();
        assert_eq!(peers.len(), 1);
        assert_eq!((peers[0].sizes.as_str(), peers[0].milliseconds), ("N=1 F=2", 0.5));
        let wrong = parse(path, &text.replace("0.5", "-1")).unwrap_err().to_string();
        assert_eq!(wrong, "peer.csv:2: `-1` is no time in milliseconds");
        assert!(parse(path, "").unwrap_err().to_string().contains("no column `op`"));
    }
}
