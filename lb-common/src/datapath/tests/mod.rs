//! Tests of the path as a whole. What one stage does by itself is tested at the bottom of its file.

mod law;
