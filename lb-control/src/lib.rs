//! The pure control core.
