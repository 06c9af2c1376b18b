//! `index.html`: a trace as one page, which needs no network.
//!
//! | file | holds |
//! |---|---|
//! | `writing.rs` | the page, put together and written |
//! | `attention.rs` | the attention weights, small enough for a page |
//! | `source.rs` | the source files that compute what the page shows, and where in them |
//! | `body.html`, `style.css` | the page's content and style |
//! | `base.js` | data, elements, texts, numbers, colours, selection |
//! | `tokens.js` `attention.js` `streams.js` `lens.js` `ops.js` | one panel each |
//! | `plot.js` `source.js` | lines over depth; shapes in numbers and the source files |
//! | `main.js` | controls and keys |

mod attention;
mod source;
mod writing;
