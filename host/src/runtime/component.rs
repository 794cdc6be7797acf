//! What is looked at before a component is run: what it imports, what it exports, and what it says of itself.

use std::collections::BTreeSet;

use wasmtime::{
    Engine,
    component::{Component, ComponentExportIndex},
};

use super::{CONTRACT_PACKAGE, Description, Fault, RuntimeError, abi, imports::interface};
use crate::{
    limits::{HOST_TABLES_FROM, MACHINE_NAME_BYTES, MACHINE_TABLES},
    storage::{TableId, TableKind, TableSpec},
};

const INTERFACES: [&str; 3] = ["tables", "answer", "log"];

/// Where the contract's functions are in a component.
pub(super) struct Exports {
    pub describe: ComponentExportIndex,
    pub admit: ComponentExportIndex,
    pub apply: ComponentExportIndex,
    pub query: ComponentExportIndex,
    pub next_task: ComponentExportIndex,
    pub rebuild: ComponentExportIndex,
    pub migrate: ComponentExportIndex,
    pub check: ComponentExportIndex,
}

impl Exports {
    pub fn find(component: &Component) -> Result<Self, RuntimeError> {
        let find = |name| {
            component
                .get_export_index(None, name)
                .ok_or_else(|| RuntimeError::Export { name, reason: "it is missing".to_owned() })
        };
        Ok(Exports {
            describe: find("describe")?,
            admit: find("admit")?,
            apply: find("apply")?,
            query: find("query")?,
            next_task: find("next-task")?,
            rebuild: find("rebuild")?,
            migrate: find("migrate")?,
            check: find("check")?,
        })
    }
}

/// A component may import what the contract offers, and nothing else.
pub(super) fn check_imports(engine: &Engine, component: &Component) -> Result<(), RuntimeError> {
    let allowed = INTERFACES.map(interface);
    for (name, _) in component.component_type().imports(engine) {
        if allowed.iter().any(|it| it == name) {
            continue;
        }
        let (package, version) = name.split_once('@').unwrap_or((name, ""));
        let known = INTERFACES.iter().any(|it| package == format!("{CONTRACT_PACKAGE}/{it}"));
        return Err(if known {
            RuntimeError::Contract { found: format!("{CONTRACT_PACKAGE}@{version}") }
        } else {
            RuntimeError::Import { name: name.to_owned() }
        });
    }
    Ok(())
}

impl Description {
    /// What a declared table is.
    pub(super) fn kind(&self, table: TableId) -> Result<TableKind, Fault> {
        self.tables
            .iter()
            .find(|spec| spec.id == table)
            .map(|spec| spec.kind)
            .ok_or_else(|| Fault::new(format!("it named table {table}, which it does not declare")))
    }
}

impl TryFrom<abi::Description> for Description {
    type Error = RuntimeError;

    fn try_from(description: abi::Description) -> Result<Self, RuntimeError> {
        let invalid = |reason: String| Err(RuntimeError::Description(reason));
        for (what, text) in [("name", &description.name), ("version", &description.version)] {
            if !is_name(text) {
                return invalid(format!("its {what} is {text:?}"));
            }
        }
        if description.tables.len() > MACHINE_TABLES {
            let tables = description.tables.len();
            return invalid(format!("it declares {tables} tables; {MACHINE_TABLES} are allowed"));
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for table in &description.tables {
            if !is_name(&table.name) {
                return invalid(format!("a table's name is {:?}", table.name));
            }
            if table.table >= HOST_TABLES_FROM {
                return invalid(format!("its table {} has an id of the host's", table.name));
            }
            if !ids.insert(table.table) || !names.insert(&table.name) {
                return invalid(format!(
                    "it declares table {} ({}) twice",
                    table.table, table.name
                ));
            }
        }
        let tables = description.tables.iter().map(|table| TableSpec {
            id: table.table,
            name: table.name.clone(),
            kind: match table.kind {
                abi::TableKind::Durable => TableKind::Durable,
                abi::TableKind::Derived => TableKind::Derived,
            },
        });
        Ok(Description {
            tables: tables.collect(),
            name: description.name,
            version: description.version,
            schema_version: description.schema_version,
        })
    }
}

/// Names go to logs, metrics and terminals: printable ASCII without blanks, and not too long.
fn is_name(text: &str) -> bool {
    (1..=MACHINE_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}
