//! Rules about the sources that no compiler checks.
