//! `report.html`: one file that needs no network, in a light and a dark theme, with the figures as SVG; and the numbers
//! behind them as CSV.
//!
//! | file | holds |
//! |---|---|
//! | `input.rs` | what a report is made of |
//! | `page.rs` (`style.css`) | its sections, in their order |
//! | `section/` | a file for each section, with the CSV of its figures and tables |
//! | `figure/` | the figures, as SVG |
//! | `parts.rs` `text.rs` | tables, captions, CSV links; numbers and addresses as text |
//! | `plain.rs` | the counts and tests for a terminal |
//! | `results.rs` | the files that analysis leaves: `summary.json`, `report.html`, `csv/` |

mod figure;
mod input;
mod page;
mod parts;
mod plain;
mod results;
mod section;
mod text;

pub use self::input::Report;
pub use self::parts::Csv;
pub use self::plain::{plain, plain_cells, plain_tests};
pub use self::results::{analyze_tables, write_results};
