//! The figures of `benches/results`: what an op was measured at, and what the same work took elsewhere.

use serde::Serialize;

/// The tables, one a card.
const TABLES: [&str; 1] = [include_str!("../../../benches/results/NVIDIA-H100-80GB-HBM3.csv")];

/// One row of a table, times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The op and what of it.
    pub op: String,
    /// The model whose sizes these are.
    pub model: String,
    /// The sizes.
    pub case: String,
    /// Median time.
    pub ms: f64,
    /// Bytes that must be moved, over the time, 10¹² a second.
    pub tbs: f64,
    /// Floating-point operations over the time, 10¹² a second; 0 where they do not count.
    pub tflops: f64,
    /// Time of a perfect program over the time taken.
    pub limit_percent: Option<f64>,
    /// Time of a copy of as many bytes over the time taken, where memory is the bound.
    pub copy_percent: Option<f64>,
    /// The fastest peer.
    pub peer: Option<Peer>,
    /// The card.
    pub gpu: String,
    /// The day.
    pub date: String,
}

/// What the same work took elsewhere, in the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peer {
    /// The library or kernel.
    pub via: String,
    /// Median time.
    pub ms: f64,
}

/// The rows of these ops, each a whole op or its first words; of sizes of `model` or of none, or if there are none of
/// those, of every model.
pub fn rows(ops: &[&str], model: &str) -> Vec<Measured> {
    let is = |row: &Measured, op: &str| {
        row.op.strip_prefix(op).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let mut rows: Vec<Measured> = TABLES.iter().flat_map(|table| read(table)).collect();
    rows.retain(|row| ops.iter().any(|op| is(row, op)));
    let of_model = |row: &Measured| row.model == model || row.model == "any";
    if rows.iter().any(of_model) {
        rows.retain(of_model);
    }
    rows
}

/// The rows through emlab that have a time, each with its fastest peer.
fn read(table: &str) -> Vec<Measured> {
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let field = |line: &str, name: &str| {
        let at = head.iter().position(|column| *column == name);
        at.and_then(|at| line.split(',').nth(at)).unwrap_or_default().to_owned()
    };
    let number = |line: &str, name: &str| field(line, name).parse::<f64>().ok();
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for line in lines {
        let Some(ms) = number(line, "ms") else { continue };
        let via = field(line, "via");
        let key = ["op", "model", "case"].map(|name| field(line, name));
        if via != "emlab" {
            peers.push((key, Peer { via, ms }));
            continue;
        }
        let [op, model, case] = key;
        ours.push(Measured {
            op,
            model,
            case,
            ms,
            tbs: number(line, "tbs").unwrap_or_default(),
            tflops: number(line, "tflops").unwrap_or_default(),
            limit_percent: number(line, "limit_percent"),
            copy_percent: number(line, "copy_percent"),
            peer: None,
            gpu: field(line, "gpu"),
            date: field(line, "date").split('T').next().unwrap_or_default().to_owned(),
        });
    }
    for row in &mut ours {
        let same = peers
            .iter()
            .filter(|([op, model, case], _)| (op, model, case) == (&row.op, &row.model, &row.case));
        row.peer = same.map(|(_, peer)| peer.clone()).min_by(|a, b| a.ms.total_cmp(&b.ms));
    }
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_with_their_fastest_peer() {
        let table = "op,model,case,via,ms,tflops,tbs,limit_percent,copy_percent,gpu,date\n\
            glu forward,m,N=1,emlab,0.5,0.0,2.5,80.0,90.0,H100,2026-11-27T02:04Z\n\
            glu forward,m,N=1,eager,2.0,,,,,H100,2026-11-27T02:04Z\n\
            glu forward,m,N=1,torch.compile,0.75,,,,,H100,2026-11-27T02:04Z\n\
            glu backward,m,N=1,emlab,,,,,,H100,2026-11-27T02:04Z\n";
        let found = read(table);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ms, found[0].tbs, &*found[0].date), (0.5, 2.5, "2026-11-27"));
        assert_eq!(found[0].peer, Some(Peer { via: "torch.compile".into(), ms: 0.75 }));
    }

    #[test]
    fn an_op_is_more_than_a_prefix() {
        assert!(rows(&["linear"], "qwen3-8b").iter().all(|row| row.op.starts_with("linear ")));
        let (own, any) = (rows(&["norm"], "qwen3-8b"), rows(&["norm"], "no such model"));
        assert!(!own.is_empty() && own.len() < any.len());
        assert!(rows(&["random"], "qwen3-8b").is_empty());
    }
}
