//! Test bench: namespaces, traffic, measures.
