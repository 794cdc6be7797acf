//! Components of modules, as bytes.

macro_rules! components {
    ($($(#[$about:meta])* $name:ident = $file:literal),* $(,)?) => {$(
        $(#[$about])*
        pub const $name: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".wasm"));
    )*};
}

components! {
    /// `examples/rate-limit`.
    RATE_LIMIT = "rate-limit",
    /// Does whatever a module must not, on demand.
    HOSTILE = "hostile",
}
