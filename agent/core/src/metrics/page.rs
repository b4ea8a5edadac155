//! The page's letters: families, labels and values, as OpenMetrics 1.0 and the Prometheus text format 0.0.4 want them.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;

/// For whom the page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0, as Prometheus asks for it.
    OpenMetrics,
    /// The text format 0.0.4, which node_exporter's textfile collector reads.
    Text,
}

impl Form {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A page that is being written. A family is begun, then its values follow.
pub(super) struct Page {
    form: Form,
    out: String,
    family: String,
}

impl Page {
    pub(super) fn new(form: Form) -> Self {
        Self { form, out: String::new(), family: String::new() }
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) {
        // The older format knows no suffix that belongs to the family.
        let named = match self.form {
            Form::OpenMetrics => name.to_string(),
            Form::Text => format!("{name}_total"),
        };
        self.begin(&named, "counter", "", help);
        self.family = name.to_string();
    }

    /// A gauge; a unit becomes the end of its name.
    pub(super) fn gauge(&mut self, name: &str, unit: &str, help: &str) {
        let name = if unit.is_empty() { name.to_string() } else { format!("{name}_{unit}") };
        self.begin(&name, "gauge", unit, help);
    }

    /// What does not change, as labels.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        match self.form {
            Form::OpenMetrics => self.begin(name, "info", "", help),
            Form::Text => self.begin(&format!("{name}_info"), "gauge", "", help),
        }
        self.family = name.to_string();
        self.value("_info", labels, 1);
    }

    /// One of several words, as a value for each.
    pub(super) fn states<const N: usize>(&mut self, name: &str, help: &str, is: [(&str, bool); N]) {
        let kind = match self.form {
            Form::OpenMetrics => "stateset",
            Form::Text => "gauge",
        };
        self.begin(name, kind, "", help);
        for (word, so) in is {
            self.value("", &[(name, word)], u8::from(so));
        }
    }

    fn begin(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        self.family = name.to_string();
        let help = match self.form {
            Form::OpenMetrics => escaped(help),
            Form::Text => help.replace('\\', "\\\\").replace('\n', "\\n"),
        };
        self.out += &format!("# TYPE {name} {kind}\n");
        if self.form == Form::OpenMetrics && !unit.is_empty() {
            self.out += &format!("# UNIT {name} {unit}\n");
        }
        self.out += &format!("# HELP {name} {help}\n");
    }

    pub(super) fn value(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out += &self.family;
        self.out += suffix;
        for (n, (name, word)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            self.out += &format!("{open}{name}=\"{}\"", escaped(word));
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.out += &format!(" {value}\n");
    }

    pub(super) fn end(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.out += "# EOF\n";
        }
        self.out
    }
}

/// A label's value within its quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Milliseconds as seconds, without a float's surprises.
pub(super) fn seconds(ms: u64) -> impl Display {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}
