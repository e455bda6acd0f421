//! Where the files of a model lie: in a folder, or in the executable.

use std::path::PathBuf;

use hal::{Error, ErrorKind, Result};
use ops::Context;
use serde_json::Value;

use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::config::GenerationConfig;
use crate::engine::Engine;
use crate::files;
use crate::model::{Model, Options};
use crate::prompt::{ChatTemplate, TemplateSource};
use crate::tokenizer::Tokenizer;

/// The files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder as it was downloaded.
    Folder(PathBuf),
    /// Names and contents of files that are part of the executable; the weights are in one of them.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelSource {
    /// What the layers must know.
    ///
    /// # Errors
    /// As [`Architecture::load`].
    pub fn architecture(&self) -> Result<Architecture> {
        match self {
            Self::Folder(folder) => Architecture::load(folder),
            Self::Embedded(files) => Architecture::from_config(&json(files, "config.json")?),
        }
    }

    /// What the publisher recommends for generation.
    ///
    /// # Errors
    /// As [`GenerationConfig::load`].
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        match self {
            Self::Folder(folder) => GenerationConfig::load(folder),
            Self::Embedded(files) => {
                let generation = json(files, "generation_config.json")?;
                GenerationConfig::from_configs(&json(files, "config.json")?, Some(&generation))
            }
        }
    }

    /// The tensors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match self {
            Self::Folder(folder) => Checkpoint::open(folder),
            Self::Embedded(files) => Checkpoint::from_static(file(files, "model.safetensors")?),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Self::Folder(folder) => Tokenizer::load(folder),
            Self::Embedded(files) => Tokenizer::from_bytes(file(files, "tokenizer.json")?),
        }
    }

    /// The chat template.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        match self {
            Self::Folder(folder) => ChatTemplate::load(folder, tokenizer),
            Self::Embedded(files) => {
                let name = "tokenizer_config.json";
                let config = json(files, name)?;
                let source = TemplateSource::File(name.to_owned());
                ChatTemplate::new(&config["chat_template"], source, &config)
            }
        }
    }

    /// Loads model and tokenizer. `progress` hears bytes done and in all.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Engine::new`].
    pub fn load(
        &self,
        context: &Context,
        options: &Options,
        progress: impl FnMut(usize, usize),
    ) -> Result<Engine> {
        let (architecture, tokenizer) = (self.architecture()?, self.tokenizer()?);
        let model = Model::load(
            context,
            &architecture,
            &self.checkpoint()?,
            options,
            progress,
        )?;
        Engine::new(context, model, tokenizer)
    }
}

fn file(files: &[(&'static str, &'static [u8])], name: &str) -> Result<&'static [u8]> {
    let found = files.iter().find(|(file, _)| *file == name);
    found.map(|(_, bytes)| *bytes).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("read {name}"),
            "the embedded model does not have it",
        )
        .next_step("give the folder of a downloaded model")
    })
}

fn json(files: &[(&'static str, &'static [u8])], name: &str) -> Result<Value> {
    files::parse_json(name, file(files, name)?)
}
