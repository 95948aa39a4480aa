//! The profiles that ship with the program: written where agents read them, never over a changed one.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

const SHIPPED: [(&str, &str); 7] = [
    ("ceo", include_str!("../../../deploy/profiles/ceo.md")),
    ("cmo", include_str!("../../../deploy/profiles/cmo.md")),
    ("cto", include_str!("../../../deploy/profiles/cto.md")),
    ("cfo", include_str!("../../../deploy/profiles/cfo.md")),
    ("coo", include_str!("../../../deploy/profiles/coo.md")),
    ("cco", include_str!("../../../deploy/profiles/cco.md")),
    ("dao", include_str!("../../../deploy/profiles/dao.md")),
];

/// Writes every shipped profile that is not there yet.
pub(crate) fn install(dir: &Path) -> Result<(), String> {
    let failed =
        |why: std::io::Error| format!("cannot write the shipped profiles to {}: {why}", dir.display());
    // What agents are told is their owner's to change only. The directory is closed to others; the files are not,
    // because a container that runs as somebody else has its own one mounted.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    for (name, text) in SHIPPED {
        let path = dir.join(format!("{name}.md"));
        if path.exists() {
            continue;
        }
        // Written aside and renamed, so that a crash leaves no half of one.
        let aside = dir.join(format!(".{name}.md.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let mut file = options.open(&aside).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&aside, &path).map_err(failed)?;
    }
    Ok(())
}
