//! L3: fine-tuning.
