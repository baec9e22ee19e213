//! The definition of a container that is being made.

use super::init::Init;
use super::source::Found;
use crate::cli;
use crate::definition::{Definition, Edit, KEYS};
use crate::definitions;
use crate::ids::Ids;
use crate::layout::Layout;
use anyhow::{Context, Result};

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
            let usual = now.as_str().is_some_and(str::is_empty);
            text = Edit::new(key.name, (!usual).then_some(now))?.apply(&text)?;
        }
    }
    Ok(text)
}

/// Takes from its files what only they tell: which signal stops it, and whether its program is an init.
pub(super) fn look(layout: &Layout, definition: &mut Definition, arguments: &cli::Create) {
    // A profile that says the first process is not known here; neither is what it stops at.
    if definition.profile.is_none() || !arguments.init.is_empty() {
        let init = Init::of(&definition.rootfs, &definition.init);
        definition.stop_signal = init.stop_signal();
        // Where ctm was built and not installed there is none to give it.
        definition.reaper = init == Init::None && layout.reaper.is_file();
    }
}
