//! Text to tokens and back, as a model's file says.

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, DecoderWrapper, Tokenizer, decoders};

use crate::file::{ModelFile, Result};

/// `SentencePiece`'s sign for a space.
const SPACE: &str = "\u{2581}";

/// The tokenizer and the chat template of a model.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    /// What a text begins with.
    begin: Option<u32>,
    /// Tokens after which nothing comes.
    ends: Vec<u32>,
    template: Option<String>,
}

impl Text {
    pub(crate) fn new(file: &mut ModelFile) -> Result<Self> {
        let model = file.text("tokenizer.ggml.model")?.to_owned();
        let tokenizer = match model.as_str() {
            "gpt2" => byte_level(file)?,
            "llama" => sentence_piece(file)?,
            other => return Err(format!("a tokenizer {other} is not known here").into()),
        };
        let id = |key: &str| file.count(&format!("tokenizer.ggml.{key}_token_id")).ok();
        let adds = file.content.metadata.get("tokenizer.ggml.add_bos_token");
        let adds = adds.map_or(Ok(model == "llama"), Value::to_bool)?;
        Ok(Self {
            begin: id("bos").filter(|_| adds),
            ends: ["eos", "eot"].into_iter().filter_map(id).collect(),
            template: file.text("tokenizer.chat_template").ok().map(str::to_owned),
            tokenizer,
        })
    }

    /// The tokens of a text that a model is to go on with.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false)?;
        // A chat template may have it already.
        let begin = self
            .begin
            .filter(|id| encoding.get_ids().first() != Some(id));
        Ok(begin
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// A message as the model's chat template puts it, up to where the answer begins.
    pub(crate) fn chat(&self, message: &str) -> Result<String> {
        let template = self
            .template
            .as_deref()
            .ok_or("the file has no chat template")?;
        let mut environment = Environment::new();
        // As transformers renders templates.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        let name = |id: Option<u32>| id.and_then(|id| self.tokenizer.id_to_token(id));
        Ok(environment.render_str(
            template,
            context! {
                messages => [context! { role => "user", content => message }],
                add_generation_prompt => true,
                bos_token => name(self.begin),
                eos_token => name(self.ends.first().copied()),
            },
        )?)
    }
}

/// Byte-level BPE.
fn byte_level(file: &mut ModelFile) -> Result<Tokenizer> {
    const PRE: &str = "tokenizer.ggml.pre";
    let split = file.text(PRE).unwrap_or("gpt-2").to_owned();
    // What llama.cpp calls Llama 3's way of splitting.
    if split == "llama-bpe" {
        let name = Value::String("llama3".to_owned());
        file.content.metadata.insert(PRE.to_owned(), name);
    }
    let mut tokenizer = Tokenizer::from_gguf(&file.content)?;
    match split.as_str() {
        "llama-bpe" | "llama3" | "qwen2" | "smaug-bpe" => {}
        "gpt-2" | "default" => {
            tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        }
        // Each digit is a token.
        "smollm" => {
            let parts = vec![
                Digits::new(true).into(),
                ByteLevel::new(false, true, true).into(),
            ];
            tokenizer.with_pre_tokenizer(Some(Sequence::new(parts)));
        }
        other => {
            return Err(
                format!("a tokenizer that splits as {other} does is not known here").into(),
            );
        }
    }
    Ok(tokenizer)
}

/// `SentencePiece`'s BPE. The file has scores of tokens and no list of merges: two tokens merge if there is a token of both, those of the best
/// score first.
fn sentence_piece(file: &ModelFile) -> Result<Tokenizer> {
    let tokens: Vec<String> = file
        .array("tokenizer.ggml.tokens")
        .iter()
        .map(|token| token.to_string().cloned())
        .collect::<std::result::Result<_, _>>()?;
    let scores = file.array("tokenizer.ggml.scores");
    let types = file.array("tokenizer.ggml.token_type");
    if scores.len() != tokens.len() || types.len() != tokens.len() {
        return Err("tokens, scores and types of the tokenizer differ in number".into());
    }
    let vocabulary: Vocab = tokens.iter().cloned().zip(0..).collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let score = score.to_f32()?;
        merges.extend(token.char_indices().skip(1).filter_map(|(at, _)| {
            let (left, right) = token.split_at(at);
            let is_known = vocabulary.contains_key(left) && vocabulary.contains_key(right);
            is_known.then(|| (score, (left.to_owned(), right.to_owned())))
        }));
    }
    merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let merges = merges.into_iter().map(|(_, merge)| merge).collect();

    let unknown = file.count("tokenizer.ggml.unknown_token_id").unwrap_or(0) as usize;
    let mut model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(token) = tokens.get(unknown) {
        model = model.unk_token(token.clone());
    }
    let mut tokenizer = Tokenizer::new(model.build()?);

    let prefix = file.content.metadata.get("tokenizer.ggml.add_space_prefix");
    let prefix = prefix.map_or(Ok(true), Value::to_bool)?;
    let mut normalizers = vec![Replace::new(" ", SPACE)?.into()];
    if prefix {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
    }
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)))?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        decoders::byte_fallback::ByteFallback::new().into(),
        decoders::fuse::Fuse::new().into(),
        Replace::new(SPACE, " ")?.into(),
    ];
    if prefix {
        decoders.push(decoders::strip::Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(decoders::sequence::Sequence::new(decoders)));

    // Types of llama.cpp: 3 is control, 4 defined by the user.
    let special: Vec<_> = tokens
        .iter()
        .zip(types)
        .filter(|(_, kind)| matches!(kind, Value::I32(3 | 4) | Value::U32(3 | 4)))
        .map(|(token, _)| AddedToken::from(token.clone(), true))
        .collect();
    tokenizer.add_special_tokens(special)?;
    Ok(tokenizer)
}
