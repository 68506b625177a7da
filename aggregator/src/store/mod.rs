//! # Store: owns the collections
//!
//! Not a stage: every stage that needs MongoDB asks here.

pub mod documents;
