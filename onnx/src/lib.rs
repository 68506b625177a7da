//! What both of Picket's programs need of ONNX Runtime.
//!
//! - [`runtime`]: the shared library, loaded when the program starts.
//! - [`provider`]: what computes, the processor or an accelerator.
//! - [`file`]: a model's file, that it is the one that was meant, and its session.
//! - [`outlet`]: the inputs and outputs of a session, by name and shape.
//! - [`colours`]: how a description says what becomes of a picture's colours.
//!
//! What a program feeds a model and reads from it is its own. An error names the setting by the
//! section of the config that it stands in, which the caller gives: `detect`, `classify`.

pub mod colours;
pub mod file;
pub mod outlet;
pub mod provider;
pub mod runtime;

pub use file::{FileError, ModelFile};
pub use provider::{MissingLibrary, Provider};
pub use runtime::{Runtime, RuntimeError};
