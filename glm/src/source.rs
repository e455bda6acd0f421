//! Where the files of a model lie: in a folder, or in the executable.

use std::path::{Path, PathBuf};

use hal::{Error, ErrorKind, Result};
use ops::Context;
use serde_json::Value;

use crate::architecture::Architecture;
use crate::checkpoint::{self, Checkpoint};
use crate::config::GenerationConfig;
use crate::engine::Engine;
use crate::files;
use crate::model::{Model, Options};
use crate::prompt::{ChatForm, ChatTemplate};
use crate::tokenizer::Tokenizer;

const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// The files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder as it was downloaded, or one file of weights.
    Folder(PathBuf),
    /// Names and contents of files that are part of the executable; the weights are in one of them.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelSource {
    /// The configuration: `config.json`, what a GGUF file has in its place, or what the tensors
    /// imply where a model is published without it.
    ///
    /// # Errors
    /// `NotFound` when neither says it; `Corrupt` when they contradict each other; those of
    /// [`Checkpoint::open`].
    pub fn config(&self) -> Result<Value> {
        let path = match self {
            Self::Folder(path) => path,
            Self::Embedded(files) => return json(files, CONFIG_FILE),
        };
        let file = path.join(CONFIG_FILE);
        if file.is_file() {
            let config = files::read_json(&file)?;
            return match checkpoint::is_known(&config) {
                true => Checkpoint::open(path)?.complete(config),
                false => Ok(config),
            };
        }
        let checkpoint = Checkpoint::open(path)?;
        if let Some(config) = checkpoint.config()? {
            return Ok(config);
        }
        checkpoint.implied_config().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("read {}", file.display()),
                "there is no such file, and the tensors do not imply it",
            )
            .next_step("copy it from the publisher")
        })
    }

    /// What the layers must know.
    ///
    /// # Errors
    /// As [`ModelSource::config`] and [`Architecture::from_config`].
    pub fn architecture(&self) -> Result<Architecture> {
        Architecture::from_config(&self.config()?)
    }

    /// What the publisher recommends for generation.
    ///
    /// # Errors
    /// As [`ModelSource::config`] and [`GenerationConfig::from_configs`].
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let generation = match self {
            Self::Folder(folder) => {
                let file = folder.join(GENERATION_FILE);
                file.is_file()
                    .then(|| files::read_json(&file))
                    .transpose()?
            }
            Self::Embedded(files) => Some(json(files, GENERATION_FILE)?),
        };
        GenerationConfig::from_configs(&self.config()?, generation.as_ref())
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
            Self::Folder(path) => {
                let gguf = gguf(path)?;
                match gguf.as_ref().and_then(Checkpoint::metadata) {
                    Some(metadata) => Tokenizer::from_metadata(metadata),
                    None => Tokenizer::load(path),
                }
            }
            Self::Embedded(files) => Tokenizer::from_bytes(file(files, "tokenizer.json")?),
        }
    }

    /// How the model is talked to.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`] and [`ChatForm::choose`].
    pub fn chat_form(&self, tokenizer: &Tokenizer) -> Result<ChatForm> {
        match self {
            Self::Folder(path) => {
                let gguf = gguf(path)?;
                let template = match gguf.as_ref().and_then(Checkpoint::metadata) {
                    Some(metadata) => ChatTemplate::from_metadata(metadata)?,
                    None => ChatTemplate::load(path)?,
                };
                // A template says everything.
                let config = match template {
                    Some(_) => Value::Null,
                    None => self.config()?,
                };
                ChatForm::choose(template, &config, tokenizer)
            }
            Self::Embedded(files) => {
                let name = "tokenizer_config.json";
                let config = json(files, name)?;
                let template = ChatTemplate::new(&config["chat_template"], name, &config)?;
                ChatForm::choose(Some(template), &self.config()?, tokenizer)
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

/// The checkpoint at `path` when it is a GGUF model, whose tokenizer and template are in it too.
fn gguf(path: &Path) -> Result<Option<Checkpoint>> {
    // Several models in a folder are an error only where one of them is opened.
    let Ok(Some(_)) = checkpoint::model_file(path) else {
        return Ok(None);
    };
    let checkpoint = Checkpoint::open(path)?;
    Ok(checkpoint.metadata().is_some().then_some(checkpoint))
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
