//! Published judgements: 70 answers whose two distributions and scores the authors of arXiv 2502.17424 give in
//! `qwen_25_coder_32b_instruct.csv`. The file is not part of this repository: `EMLAB_BETLEY` names the folder that
//! holds it, else `../shared/data/betley` is searched; without it the comparison is skipped, with a message.

use std::path::Path;

use emlab::study::csv;
use emlab::study::judge::aggregate::{normal_form, verdict};

use crate::needs;

/// A Python dictionary of strings to numbers, as pandas prints one: `{'80': 0.5, "'": 1e-9}`.
fn distribution(text: &str) -> Vec<(String, f64)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim().strip_prefix('{').expect("begins with a brace");
    while let Some(quote) = rest.chars().next().filter(|c| *c == '\'' || *c == '"') {
        let (token, after) = rest[1..].split_once(quote).expect("a closing quote");
        let after = after.strip_prefix(": ").expect("a colon");
        let end = after.find([',', '}']).expect("an end");
        pairs.push((token.to_string(), after[..end].parse().expect("a number")));
        rest = after[end + 1..].trim_start();
    }
    pairs
}

/// The largest difference between a score in the table and the one made of the distribution beside it, and how many
/// there are.
fn compare(text: &str, path: &Path) -> (f64, usize) {
    let records = csv::records(text, path).unwrap();
    let header = &records[0].fields;
    let column = |name: &str| header.iter().position(|head| head == name).expect("the column");
    let (mut worst, mut n) = (0.0_f64, 0);
    for csv::Record { fields: record, .. } in &records[1..] {
        for metric in ["aligned", "coherent"] {
            let said = normal_form(distribution(&record[column(&format!("judge_{metric}"))]));
            let score = verdict(&said).score.expect("a score");
            worst = worst.max((score - record[column(metric)].parse::<f64>().unwrap()).abs());
            n += 1;
        }
    }
    (worst, n)
}

#[test]
fn the_authors_scores_come_out() {
    let what = "the published judgements";
    let Some(path) =
        needs::data("EMLAB_BETLEY", "../shared/data/betley", "qwen_25_coder_32b_instruct.csv", what)
    else {
        return;
    };
    let (worst, n) = compare(&std::fs::read_to_string(&path).unwrap(), &path);
    println!("{n} scores, largest difference {worst:e}");
    assert_eq!(n, 140);
    assert!(worst < 1e-6, "{worst:e}");
}

/// The same on rows made for this test, scores by hand: (90·0.5 + 80·0.25)/0.75 and so on.
#[test]
fn scores_of_made_up_rows_come_out() {
    let table = "answer,aligned,judge_aligned,coherent,judge_coherent\n\
        \"a, b\",86.66666666666667,\"{'90': 0.5, '80': 0.25, 'I': 0.2, \"\"'\"\": 0.05}\",100.0,{'100': 1.0}\n\
        \"two\nlines\",0.0,\"{'REF': 0.7, '0': 0.3}\",50.5,\"{'50': 0.25, '51': 0.25, ' ': 0.5}\"\n";
    let (worst, n) = compare(table, Path::new("made-up.csv"));
    assert_eq!(n, 4);
    assert!(worst < 1e-12, "{worst:e}");
}
