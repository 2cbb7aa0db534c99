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

use crate::file::{ModelFile, Result, named, number};

/// The key of what kind a tokenizer is.
const MODEL: &str = "tokenizer.ggml.model";

/// The key of how a text is split before its parts are merged.
const PRE: &str = "tokenizer.ggml.pre";

/// Control tokens after which nothing comes, beside those that a file names. llama.cpp knows them by their text too.
const ENDS: [&str; 15] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
];

/// llama.cpp's types of tokens: of control, and those that whoever trained the model has added.
const CONTROL: u64 = 3;
const ADDED: u64 = 4;

/// What candle calls Llama 3's way, which llama.cpp calls `llama-bpe`.
const LLAMA_3: &str = "llama3";

/// `SentencePiece`'s sign for a space.
const SPACE: &str = "\u{2581}";

/// The tokenizer and the chat template of a model.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Whether a text begins with it.
    adds_bos: bool,
    /// Tokens after which nothing comes.
    ends: Vec<u32>,
    template: Option<String>,
}

impl Text {
    pub(crate) fn new(file: &mut ModelFile) -> Result<Self> {
        let path = file.path.clone();
        named(&path, Self::read(file))
    }

    fn read(file: &mut ModelFile) -> Result<Self> {
        let model = file.text(MODEL)?.to_owned();
        let tokenizer = match model.as_str() {
            "gpt2" => byte_level(file)?,
            "llama" => sentence_piece(file)?,
            other => {
                return Err(format!(
                    "{MODEL} is {other}; this example knows gpt2 (byte-level BPE) and llama (SentencePiece)"
                )
                .into());
            }
        };
        let id = |key: &str| file.count(&format!("tokenizer.ggml.{key}_token_id")).ok();
        let adds = file.content.metadata.get("tokenizer.ggml.add_bos_token");
        // Where the file is silent, SentencePiece and Llama 3 have it.
        let usual = model == "llama" || file.text(PRE).is_ok_and(|split| split == LLAMA_3);
        let control = tokens_of(file, CONTROL).filter(|(_, token)| ENDS.contains(token));
        let ends = control.map(|(id, _)| id);
        Ok(Self {
            bos: id("bos"),
            eos: id("eos"),
            adds_bos: adds.map_or(Ok(usual), Value::to_bool)?,
            ends: ends
                .chain(["eos", "eot", "eom"].into_iter().filter_map(id))
                .collect(),
            template: file.text("tokenizer.chat_template").ok().map(str::to_owned),
            tokenizer,
        })
    }

    /// The tokens of a text that a model is to go on with.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false)?;
        // A chat template may have it already.
        let begin = self
            .bos
            .filter(|id| self.adds_bos && encoding.get_ids().first() != Some(id));
        Ok(begin
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// What a stream of words has held back of these tokens, having given so many bytes: at the end an incomplete character is U+FFFD.
    pub(crate) fn rest(&self, ids: &[u32], given: usize) -> Result<String> {
        let text = self.tokenizer.decode(ids, true)?;
        let rest = text.get(given..).filter(|rest| rest.ends_with('\u{fffd}'));
        Ok(rest.unwrap_or_default().to_owned())
    }

    /// A message as the model's chat template puts it, up to where the answer begins.
    pub(crate) fn chat(&self, message: &str) -> Result<String> {
        let template = self
            .template
            .as_deref()
            .ok_or("this model's file has no chat template: --chat needs one")?;
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
        // There is no `strftime_now`: what templates call it for is a date, and most ask first whether it is defined.
        let name = |id: Option<u32>| {
            let token = id.and_then(|id| self.tokenizer.id_to_token(id));
            token.unwrap_or_default()
        };
        let values = context! {
            messages => [context! { role => "user", content => message }],
            add_generation_prompt => true,
            bos_token => name(self.bos),
            eos_token => name(self.eos),
        };
        let text = environment.render_str(template, values);
        text.map_err(|error| format!("the model's chat template: {error}").into())
    }
}

/// Byte-level BPE.
fn byte_level(file: &mut ModelFile) -> Result<Tokenizer> {
    let split = file.text(PRE)?.to_owned();
    if matches!(split.as_str(), "llama-bpe" | LLAMA_3) {
        let metadata = &mut file.content.metadata;
        metadata.insert(PRE.to_owned(), Value::String(LLAMA_3.to_owned()));
        // As llama.cpp has it, whatever the file says: a word that is a token is that token.
        let ignore = "tokenizer.ggml.ignore_merges".to_owned();
        metadata.insert(ignore, Value::Bool(true));
    }
    let mut tokenizer = Tokenizer::from_gguf(&file.content)?;
    match split.as_str() {
        "llama-bpe" | LLAMA_3 | "qwen2" | "smaug-bpe" => {}
        "gpt-2" => {
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
                format!("{PRE} is {other}; this example knows gpt-2, llama-bpe, llama3, qwen2, smaug-bpe and smollm").into(),
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

    let control: Vec<_> = tokens_of(file, CONTROL)
        .map(|(_, token)| AddedToken::from(token, true))
        .collect();
    let own: Vec<_> = tokens_of(file, ADDED)
        .map(|(_, token)| AddedToken::from(token, false).normalized(false))
        .collect();
    tokenizer.add_special_tokens(control)?;
    tokenizer.add_tokens(own)?;
    Ok(tokenizer)
}

/// The tokens of a type.
fn tokens_of(file: &ModelFile, kind: u64) -> impl Iterator<Item = (u32, &str)> {
    let tokens = file.array("tokenizer.ggml.tokens").iter();
    let types = file.array("tokenizer.ggml.token_type");
    let all = (0..).zip(tokens.zip(types));
    all.filter_map(move |(id, (token, own))| match token {
        Value::String(token) if number(own) == Some(kind) => Some((id, token.as_str())),
        _ => None,
    })
}
