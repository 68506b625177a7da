//! Inputs and outputs of a session, by name and shape. What is wrong is said as the end of a sentence
//! about the model.

use ort::value::{Outlet, TensorElementType, ValueType};

/// The one of this name; the only one if none is named.
pub fn chosen<'a>(
    what: &str,
    outlets: &'a [Outlet],
    name: Option<&str>,
) -> Result<&'a Outlet, String> {
    let names: Vec<&str> = outlets.iter().map(Outlet::name).collect();
    let names = names.join(", ");
    match (name, outlets) {
        (Some(name), _) => outlets
            .iter()
            .find(|outlet| outlet.name() == name)
            .ok_or_else(|| format!("it has no {what} {name}; it has {names}")),
        (None, [one]) => Ok(one),
        (None, _) => Err(format!("it has several {what}s; name one in its description: {names}")),
    }
}

/// The shape of one that holds numbers of 32 bits; below 0 means any.
pub fn float32<'a>(what: &str, outlet: &'a Outlet) -> Result<&'a [i64], String> {
    match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Ok(&shape[..]),
        ValueType::Tensor { ty, .. } => Err(format!(
            "its {what} {} is of {ty}; export it with numbers of 32 bits (f32)",
            outlet.name()
        )),
        _ => Err(format!("its {what} {} is no tensor", outlet.name())),
    }
}

/// Width or height of a picture, if it is one that a model may fix.
pub fn side(size: i64) -> Option<u32> {
    u32::try_from(size).ok().filter(|size| (1..=8192).contains(size))
}
