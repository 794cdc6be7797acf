//! Components of modules, as bytes.

macro_rules! components {
    ($($(#[$about:meta])* $name:ident = $file:literal),* $(,)?) => {$(
        $(#[$about])*
        pub const $name: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".wasm"));
    )*};
}

components! {
    /// `examples/fenced-queue`.
    FENCED_QUEUE = "fenced-queue",
    /// `examples/prefix-quota`.
    PREFIX_QUOTA = "prefix-quota",
    /// `examples/secondary-index`.
    SECONDARY_INDEX = "secondary-index",
    /// `examples/rate-limit`.
    RATE_LIMIT = "rate-limit",
    /// Does whatever a module must not, on demand.
    HOSTILE = "hostile",
}
