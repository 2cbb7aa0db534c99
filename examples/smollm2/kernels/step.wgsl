// What a step is about; stands before each kernel. The host writes it once a step.
struct Step {
    // Tokens of this step.
    tokens: u32,
    // The number of the first of them, counted from the beginning of the text. Token n is in slot n % capacity of the cache.
    first: u32,
    // The oldest token that is still in the cache.
    oldest: u32,
    // The position of the first token: `first - oldest`.
    position: u32,
}
@group(0) @binding(0) var<uniform> step: Step;
