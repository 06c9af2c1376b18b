//! L4: the study.
