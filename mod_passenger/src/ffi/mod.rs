//! Every line that speaks C: the bindings, the module record and thin safe views over httpd's types.

pub(crate) mod barrier;
pub(crate) mod bindings;
mod layout;
pub(crate) mod module;
