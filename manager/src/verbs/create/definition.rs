//! The definition of a container that is being made.

use super::source::Found;
use crate::cli;
use crate::definition::{Definition, Edit, KEYS};
use crate::definitions;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::verbs::init::{self, Init};
use anyhow::{Context, Result};
use std::io::{self, Write};
use toml_edit::Array;

/// What the arguments make it, without faults. Its base is not known yet.
pub(super) fn of(layout: &Layout, arguments: &cli::Create, ids: Ids, found: &Found) -> Result<Definition> {
    let name = &arguments.name;
    let mut definition = match &found.model {
        Some(model) => Definition {
            name: name.clone(),
            ids,
            base: model.definition.base.clone().filter(|_| !arguments.copy),
            ..model.definition.clone()
        },
        None => Definition::new(name.clone(), ids, layout),
    };
    let fresh = Definition::new(name.clone(), ids, layout);
    definition.hostname = arguments.hostname.clone().unwrap_or(fresh.hostname);
    definition.rootfs = found.rootfs.clone().unwrap_or(fresh.rootfs);
    definition.start = fresh.start;
    // Nobody else's, and not those of what it is a copy of.
    if arguments.ip.is_empty() && !definition.addresses.is_empty() {
        writeln!(
            io::stderr(),
            "note: the addresses of what it is a copy of stay there; `ctm set {name} 'ip=[\"ADDRESS\"]'` gives it others"
        )?;
    }
    definition.addresses.clone_from(&arguments.ip);
    if let Some(domain) = &arguments.domain {
        definition.domain.clone_from(domain);
    }
    if arguments.profile.is_some() {
        definition.profile.clone_from(&arguments.profile);
    }
    if !arguments.init.is_empty() {
        definition.init.clone_from(&arguments.init);
    }
    definition.capabilities.extend_from_slice(&arguments.cap);
    let text = found.text(layout, &definition)?;
    definitions::parsed(layout, name, text.as_bytes())
        .with_context(|| format!("cannot create container {name}"))?;
    Ok(definition)
}

/// The text of a definition after a model's: the model's own, with what differs changed. For a clone, and for a container
/// that gets another name.
pub(in crate::verbs) fn cloned_text(model: &str, of: &Definition, clone: &Definition) -> Result<String> {
    let heading = |definition: &Definition| format!("# Container {}; see ctm(8).\n", definition.name);
    let mut text = model.replacen(&heading(of), &heading(clone), 1);
    for key in KEYS {
        let (before, now) = ((key.show)(of), (key.show)(clone));
        if before.to_string() != now.to_string() {
            // Of what is a container's alone no profile says anything that would have to be taken back.
            let is_none = key.identity && now.as_array().is_some_and(Array::is_empty);
            let usual = is_none || now.as_str().is_some_and(str::is_empty);
            text = Edit::new(key.name, (!usual).then_some(now))?.apply(&text)?;
        }
    }
    Ok(text)
}

/// Takes from its files what only they tell: which signal stops it, and whether its program is an init. What its profile
/// says of these counts. Says so where there is no such program.
pub(super) fn look(layout: &Layout, definition: &mut Definition) -> Result<()> {
    let text = definition.text(layout);
    let parsed = definitions::parsed(layout, &definition.name, text.as_bytes())?;
    let init = Init::of(&definition.rootfs, &parsed.definition.init);
    if let (Init::Missing, Some(program)) = (init, parsed.definition.init.first()) {
        writeln!(
            io::stderr(),
            "note: there is no {program} in its root file system; say what starts it with `ctm set {} 'init=[\"PROGRAM\", \"ARGUMENT\"]'`",
            definition.name
        )?;
    }
    if !init::is_of_profile(layout, &parsed, "stop_signal") {
        definition.stop_signal = init.stop_signal();
    }
    if !init::is_of_profile(layout, &parsed, "reaper") {
        definition.reaper = init.needs_reaper(layout);
    }
    Ok(())
}
