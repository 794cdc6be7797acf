//! Who else is told what was applied.

use std::sync::Arc;

use crate::runtime::Outcome;
use crate::storage::View;

/// Is told of each applied batch, in order, on the apply thread: when it is in the latest view, and before anyone
/// learns of its index or its outcomes. It must not wait.
pub trait Observer: Send + Sync + 'static {
    fn applied(&self, view: &Arc<View>, outcomes: &[Outcome]);
}
