//! `ctm profile`: what containers have in common, listed, shown, made, scaled and applied.

use super::{Code, Condition, change, config};
use crate::cli::{Profile, ProfileApply, ProfileCreate, ProfileList, ProfileScale, ProfileShow};
use crate::definition::{Definition, Edit, KEYS, Parsed, key, scale};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::table::{self, Cell};
use crate::{lock, profiles};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use serde::Serialize;
use std::io::{self, Write};

pub(super) fn run(layout: &Layout, what: &Profile) -> Result<Code> {
    match what {
        Profile::List(arguments) => list(&super::of(layout, &arguments.root), arguments),
        Profile::Show(arguments) => show(&super::of(layout, &arguments.root), arguments),
        Profile::Create(arguments) => create(&super::of(layout, &arguments.root), arguments),
        Profile::Scale(arguments) => scaled(&super::of(layout, &arguments.root), arguments),
        Profile::Apply(arguments) => apply(&super::of(layout, &arguments.root), arguments),
    }
}

/// A profile as it is listed.
#[derive(Debug, Serialize)]
struct View {
    name: ContainerName,
    /// How many keys it says; none: it has faults.
    keys: Option<usize>,
    /// What is wrong with it.
    fault: Option<String>,
    /// Who has it.
    containers: Vec<ContainerName>,
}

fn list(layout: &Layout, arguments: &ProfileList) -> Result<Code> {
    let mut users = profiles::users(layout)?;
    let mut views = Vec::new();
    for name in profiles::names(layout)? {
        let (keys, fault) = match profiles::load(layout, &name) {
            Ok(parsed) => (Some(parsed.origins.len()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        views.push(View {
            containers: users.remove(&name).unwrap_or_default(),
            name,
            keys,
            fault,
        });
    }
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&views)?)?;
        return Ok(Code::Done);
    }
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            let containers: Vec<_> = view.containers.iter().map(ContainerName::as_str).collect();
            let keys = match view.keys {
                Some(keys) => Cell::number(u64::try_from(keys).ok()),
                None => Cell::text(format!("has faults, see `ctm profile show {}`", view.name)),
            };
            vec![
                Cell::text(view.name.to_string()),
                keys,
                Cell::text(containers.join(", ")),
            ]
        })
        .collect();
    for line in table::lines(Some(&["PROFILE", "KEYS", "CONTAINERS"].map(String::from)), &rows) {
        writeln!(out, "{line}")?;
    }
    Ok(Code::Done)
}

fn show(layout: &Layout, arguments: &ProfileShow) -> Result<Code> {
    let parsed = profiles::load(layout, &arguments.profile)?;
    let values = config::effective(&parsed, false);
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&values)?)?;
    } else {
        config::show(&values, &mut out)?;
    }
    Ok(Code::Done)
}

fn create(layout: &Layout, arguments: &ProfileCreate) -> Result<Code> {
    let name = &arguments.profile;
    let mut values = Vec::new();
    let mut about = format!("Profile {name}; see ctm(8).");
    if let Some(container) = &arguments.from {
        let Parsed { definition, origins } = definitions::load_with_origins(layout, container)?;
        for key in KEYS
            .iter()
            .filter(|key| !key.identity && origins.contains_key(key.name))
        {
            values.push(Edit::new(key.name, Some((key.show)(&definition)))?);
        }
        about = format!("Profile {name}, as container {container} was; see ctm(8).");
    }
    values.extend(arguments.values.iter().cloned());
    let text = profiles::text(&about, &values);
    write(layout, name, &text, arguments.replace)?;
    writeln!(io::stdout(), "{}", layout.profile(name).display())?;
    Ok(Code::Done)
}

/// Writes a profile, which counts at once for the containers that have it.
pub(super) fn write(layout: &Layout, name: &ContainerName, text: &str, replace: bool) -> Result<()> {
    let held = profiles::hold(layout)?;
    let users = Users::of(layout, name)?;
    held.write(name, text, replace)
        .with_context(|| format!("profile {name} was not made"))?;
    users.follow(layout)
}

/// The containers that have a profile, as they were before it was changed.
struct Users(Vec<(ContainerName, Option<Definition>)>);

impl Users {
    fn of(layout: &Layout, profile: &ContainerName) -> Result<Self> {
        let users = profiles::users(layout)?.remove(profile).unwrap_or_default();
        let before = users.into_iter().map(|name| {
            let definition = definitions::load(layout, &name).ok();
            (name, definition)
        });
        Ok(Self(before.collect()))
    }

    /// Has the profile count for each of them as far as it can at once; where one cannot have it, the others do.
    fn follow(self, layout: &Layout) -> Result<()> {
        let mut failed = Vec::new();
        for (name, before) in self.0 {
            if let Err(error) = follow(layout, &name, before.as_ref()) {
                writeln!(io::stderr(), "ctm: {name}: {}", super::reason(&error))?;
                failed.push(name.to_string());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!(
            "the profile was written, and these go on with what they had: {}; `ctm validate` looks for what is wrong",
            failed.join(", ")
        )
    }
}

fn follow(layout: &Layout, name: &ContainerName, before: Option<&Definition>) -> Result<()> {
    // Nobody is at work on a system that does not run.
    if layout.offline {
        return Ok(());
    }
    let _lock = lock::verb(layout, name)?;
    let after = definitions::load(layout, name)?;
    change::follow(layout, &Condition::of(layout, name)?, before, &after)?;
    change::say_what_waits(layout, before, &after)
}

fn scaled(layout: &Layout, arguments: &ProfileScale) -> Result<Code> {
    let from = &arguments.profile;
    let to = arguments.to.as_ref().unwrap_or(from);
    let held = profiles::hold(layout)?;
    let before = profiles::load(layout, from)?;
    let edits = scale(&before.definition, &before.origins, arguments.factor)?;
    let text = edits
        .iter()
        .try_fold(profiles::text_of(layout, from)?, |text, edit| edit.apply(&text))
        .map_err(LoadError::Edit)?;
    let after = profiles::parsed(layout, from, text.as_bytes()).with_context(|| {
        format!(
            "{} times {from} is no profile, and nothing was written",
            arguments.factor
        )
    })?;
    changes(Some(&before.definition), &after.definition)?;
    if !arguments.dry_run {
        let users = Users::of(layout, to)?;
        held.write(to, &text, to == from || arguments.replace)?;
        users.follow(layout)?;
    }
    Ok(Code::Done)
}

/// The container's definition says what the profile does not and what is the container's alone; all else it leaves to the
/// profile.
fn apply(layout: &Layout, arguments: &ProfileApply) -> Result<Code> {
    let ProfileApply { name, profile, .. } = arguments;
    let said = profiles::load(layout, profile)?.origins;
    let mut edits = vec![Edit::new("profile", Some(profile.as_str().into()))?];
    for key in said.keys().filter_map(|name| key(name)) {
        edits.push(Edit::new(key.name, None)?);
    }
    let before = definitions::load(layout, name).ok();
    if change::apply(layout, name, &edits)? && !layout.offline {
        change::tell_systemd()?;
    }
    let after = definitions::load_with_origins(layout, name)?;
    changes(before.as_ref(), &after.definition)?;
    let path = layout.definition(name);
    let own: Vec<_> = KEYS
        .iter()
        .filter(|key| {
            !key.identity
                && after
                    .origins
                    .get(key.name)
                    .is_some_and(|origin| origin.file == path)
        })
        .map(|key| key.name)
        .collect();
    if !own.is_empty() {
        writeln!(
            io::stderr(),
            "{name} keeps of its own what {profile} does not say: {}",
            own.join(", ")
        )?;
    }
    Ok(Code::Done)
}

/// Says which values are others now.
fn changes(before: Option<&Definition>, after: &Definition) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut any = false;
    for key in KEYS.iter().filter(|key| change::differs(key, before, after)) {
        let of = |definition| (key.show)(definition).to_string().trim().to_owned();
        writeln!(
            out,
            "{}: {} -> {}",
            key.name,
            before.map_or_else(|| "?".into(), of),
            of(after)
        )?;
        any = true;
    }
    if !any {
        writeln!(out, "nothing is to be changed")?;
    }
    Ok(())
}
