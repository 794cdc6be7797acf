//! Reads a database file, checks it, and writes its rows into a new one: `rewrite FROM TO`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use bolt::{Database, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        return Err("usage: rewrite FROM TO".into());
    };
    let database = Database::open(File::open(from)?)?;
    database.verify()?;
    let mut writer = Writer::seeking(BufWriter::new(File::create(to)?))?;
    for name in database.buckets() {
        writer.bucket(name)?;
        if let Some(mut rows) = database.rows(name)? {
            while let Some((key, value)) = rows.next()? {
                writer.row(key, value)?;
            }
        }
    }
    writer.finish_seeking()?;
    Ok(())
}
