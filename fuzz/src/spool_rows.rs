//! Rows of the spool that say what no agent wrote, in a database that is whole.
//!
//! Each line of an input changes a column: `records 2 headers [["picket-kind","skip"]]` is the third row
//! of that table. Which tables and columns there are is asked of the database.

use std::sync::OnceLock;

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::spool_state::{Agent, Files, lay_out, look_at, made, scratch};

/// Looks at such a spool, and lets an agent go on with it: what it captures must get through.
pub fn target(input: &[u8]) {
    static MADE: OnceLock<[Files; 2]> = OnceLock::new();
    let dir = scratch();
    lay_out(&MADE.get_or_init(made)[0], dir.path());
    let connection = Connection::open(dir.path().join("spool.sqlite")).unwrap();
    for line in input.split(|byte| *byte == b'\n') {
        change(&connection, line);
    }
    drop(connection);
    look_at(dir.path());
    let agent = Agent::open(dir.path()).unwrap_or_else(|error| panic!("no start: {error:?}"));
    agent.salvage(dir.path());
    let id = agent.observe(1);
    agent.settle(&[], Vec::new());
    let (rows, given_up) = agent.read();
    assert!(rows.iter().any(|row| row.id_text() == id), "what was captured does not get through");
    agent.settle(&rows, given_up);
    agent.finish();
}

/// A change that the database refuses is none.
fn change(connection: &Connection, line: &[u8]) {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let (Some(table), Some(row), Some(column)) = (word(), word(), word()) else { return };
    let Some(value) = words.next() else { return };
    let Some(kind) = kind_of(connection, table, column) else { return };
    let text = String::from_utf8_lossy(value);
    let value = match kind.as_str() {
        "INTEGER" => text.parse().map_or(Value::Null, Value::Integer),
        "BLOB" => Value::Blob(value.to_vec()),
        _ => Value::Text(text.into_owned()),
    };
    let key = if has_number(connection, table) { "id" } else { "key" };
    let row: u32 = row.parse().unwrap_or(0);
    let sql = format!(
        "UPDATE {table} SET {column} = ?1
         WHERE {key} = (SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET ?2)"
    );
    let _ = connection.execute(&sql, params![value, row % 16]);
}

/// The column's type, if there is such a column in such a table.
fn kind_of(connection: &Connection, table: &str, column: &str) -> Option<String> {
    let sql = "SELECT c.type FROM sqlite_schema s, pragma_table_info(s.name) c
               WHERE s.type = 'table' AND s.name = ?1 AND c.name = ?2";
    connection.query_row(sql, [table, column], |row| row.get(0)).ok()
}

fn has_number(connection: &Connection, table: &str) -> bool {
    kind_of(connection, table, "id").is_some()
}
