//! What is told: a device comes into a running container, is made its own by root inside, goes, comes back under another
//! number and is the same again; and what had its old number is refused. Owns the story; the place is a [`Stage`].

use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::Output;

/// Where the story happens.
pub(super) trait Stage {
    /// Who plays in it.
    fn part(&self) -> Part;
    /// Runs a script outside the container, as root, with the programs in its `PATH`.
    fn run(&self, script: &str) -> Result<Output>;
    /// Starts the container, which exists.
    fn start_container(&self) -> Result<()>;
    /// Waits until udev and the broker are through with everything that has happened.
    fn settle(&self) -> Result<()>;
    /// Plugs the device in and waits until udev is done; answers with its nodes, the one in question last.
    fn plug(&self) -> Result<Vec<String>>;
    /// Pulls it out and waits until its node is gone.
    fn unplug(&self, node: &str) -> Result<()>;
    /// Plugs in another one, which gets the number that was just given back, and for ever keeps it.
    fn plug_other(&self) -> Result<()>;
    /// Has the container write a line to the device.
    fn hello(&self, text: &str) -> Result<Hello>;
}

/// Who plays in the story.
pub(super) struct Part {
    /// What is plugged in, in a word; the grant's `path` as well.
    pub(super) thing: &'static str,
    /// Its alias.
    pub(super) alias: &'static str,
    /// The container's name.
    pub(super) container: String,
    /// The broker's configuration.
    pub(super) configuration: String,
}

/// A line that the container wrote.
pub(super) struct Hello {
    /// What the container does, in a sentence.
    pub(super) how: &'static str,
    /// What the device received.
    pub(super) arrived: String,
}

/// Tells the story to `out`; the last line is `demo: ok`.
pub(super) fn tell(stage: &dyn Stage, out: &mut dyn Write) -> Result<()> {
    Teller {
        stage,
        part: stage.part(),
        out,
    }
    .tell()
}

struct Teller<'a> {
    stage: &'a dyn Stage,
    part: Part,
    out: &'a mut dyn Write,
}

impl Teller<'_> {
    fn tell(&mut self) -> Result<()> {
        let thing = self.part.thing;
        let stable = format!("/dev/{thing}");
        writeln!(
            self.out,
            "1. The broker starts with this configuration:\n{}",
            self.part.configuration
        )?;
        writeln!(
            self.out,
            "2. `ctm` starts a container, with its own user namespace."
        )?;
        self.stage.start_container()?;
        ensure!(
            self.open(&stable)? == "ENOENT",
            "there is a {thing} in the container already"
        );
        writeln!(self.out, "   Inside, there is no {stable}.\n")?;

        let first = self.plug()?;
        writeln!(
            self.out,
            "3. Root inside makes it his own: chmod 640, chown 1000:7."
        )?;
        self.inside(&format!("chmod 640 {first} && chown 1000:7 {first}"))?;
        let before = self.open(&stable)?;
        writeln!(self.out, "   open(\"{stable}\") inside: {before}\n")?;

        writeln!(
            self.out,
            "4. The {thing} is unplugged, and another takes its number."
        )?;
        let number = self.number(&first)?;
        let seen = self.last_event()?;
        self.stage.unplug(&first)?;
        self.stage.plug_other()?;
        self.stage.settle()?;
        ensure!(
            self.number(&first)? == number,
            "the other {thing} has another number"
        );
        self.tell_events(seen)?;
        ensure!(self.open(&stable)? == "ENOENT", "the node stayed");
        self.outside(&format!(
            "mknod -m 666 /run/ctm/{}/devfs/dev/old {number}",
            self.part.container
        ))?;
        let refused = self.open("/dev/old")?;
        let outside = self.stage.run(&format!("probe open {first}"))?.stdout;
        writeln!(
            self.out,
            "   The host puts a node with the old number into the container. open() inside: {refused}"
        )?;
        writeln!(self.out, "   The same number on the host: {}", outside.trim())?;
        ensure!(
            refused.starts_with("EPERM") && outside.starts_with("ok"),
            "the old number is not refused"
        );

        writeln!(self.out, "\n5. It comes back, under another number.")?;
        let second = self.plug()?;
        ensure!(second != first, "it has the same number as before");
        let after = self.open(&stable)?;
        writeln!(self.out, "   open(\"{stable}\") inside: {after}")?;
        let permissions = |text: &str| {
            text.split_whitespace()
                .skip(3)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        ensure!(
            after.starts_with("ok") && permissions(&after) == permissions(&before),
            "{before} became {after}"
        );
        writeln!(self.out, "   The same mode and owner as root inside had set.\n")?;

        let text = "Hello from inside the container.";
        let hello = self.stage.hello(text)?;
        ensure!(
            hello.arrived.contains(text),
            "the {thing} received {:?}",
            hello.arrived
        );
        writeln!(
            self.out,
            "6. {}\n   {}\n\ndemo: ok",
            hello.how,
            hello.arrived.trim_end()
        )?;
        Ok(())
    }

    /// Plugs the device in and tells what happened; answers with its node.
    fn plug(&mut self) -> Result<String> {
        let seen = self.last_event()?;
        let nodes = self.stage.plug()?;
        self.stage.settle()?;
        writeln!(
            self.out,
            "   Plugged in: {}. What the broker did, and how long after udev's event:",
            nodes.join(" and ")
        )?;
        self.tell_events(seen)?;
        let listed = self.inside(&format!(
            "ls -l /dev/{} /dev/devbroker/{}",
            self.part.thing, self.part.alias
        ))?;
        for line in listed.lines() {
            writeln!(self.out, "   inside: {line}")?;
        }
        writeln!(self.out)?;
        nodes.last().cloned().context("a device without a node")
    }

    /// Runs a script outside, which must succeed.
    fn outside(&self, script: &str) -> Result<String> {
        let output = self.stage.run(script)?;
        ensure!(
            output.success(),
            "status {} of: {script}\n{}{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Runs a script in the container, which must succeed.
    fn inside(&self, script: &str) -> Result<String> {
        self.outside(&format!(
            "ctm exec {} -- /bin/sh -c '{script}'",
            self.part.container
        ))
    }

    /// What opening a path in the container comes to.
    fn open(&self, path: &str) -> Result<String> {
        let script = format!("ctm exec {} -- probe open {path}", self.part.container);
        Ok(self.stage.run(&script)?.stdout.trim_end().to_owned())
    }

    /// A node's kind and number as mknod(1) takes them.
    fn number(&self, node: &str) -> Result<String> {
        let seen = self.outside(&format!("probe stat {node}"))?;
        let mut words = seen.split_whitespace();
        let kind = match words.next() {
            Some("char") => 'c',
            Some("block") => 'b',
            _ => anyhow::bail!("{node} is no device node: {seen}"),
        };
        let number = words.next().unwrap_or_default().replace(':', " ");
        Ok(format!("{kind} {number}"))
    }

    /// All events so far, oldest first.
    fn events(&self) -> Result<Vec<Value>> {
        let text = self.outside("devbroker events --json")?;
        let reply: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
        let list = reply.get("events").unwrap_or(&reply);
        list.as_array()
            .cloned()
            .with_context(|| format!("no list of events: {reply}"))
    }

    fn last_event(&self) -> Result<u64> {
        Ok(self
            .events()?
            .iter()
            .filter_map(|event| event.get("seq")?.as_u64())
            .max()
            .unwrap_or(0))
    }

    /// What happened since the event `seen`, a line each.
    fn tell_events(&mut self, seen: u64) -> Result<()> {
        for event in self.events()? {
            let number = |key| event.get(key).and_then(Value::as_u64);
            let kind = event.get("kind").and_then(Value::as_str).unwrap_or_default();
            let told = [
                "access_allowed",
                "access_revoked",
                "node_placed",
                "node_withdrawn",
            ]
            .contains(&kind);
            if told && number("seq").is_some_and(|seq| seq > seen) {
                let message = event.get("message").and_then(Value::as_str).unwrap_or_default();
                let after = number("after").map_or_else(String::new, |us| format!(" ({us} us)"));
                writeln!(self.out, "     {message}{after}")?;
            }
        }
        Ok(())
    }
}
