//! Chat templates: those of the fixtures and the constructs that real ones are made of, against strings that Jinja2 (as
//! transformers sets it up) wrote for the same input.

mod common;

use aurora_quant::checkpoint;
use aurora_quant::text::{ChatTemplate, Message, Special, Tokenizer};

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", " Hi <b>\"there\"</b>\n"),
        Message::new("assistant", "Hello."),
        Message::new("user", "Bye"),
    ]
}

fn render(template: &str, messages: &[Message]) -> Result<String, String> {
    let template = ChatTemplate::new(template, "<s>", "</s>").map_err(|e| e.explain())?;
    template.render(messages, true).map_err(|e| e.explain())
}

#[test]
fn fixtures_render_and_tokenize() {
    let chatml = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    let llama = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n";
    for (model, wanted) in [("tiny-qwen2", chatml), ("tiny-llama3", llama), ("tiny-granite", llama)] {
        let source = checkpoint::open(&common::fixtures().join("models").join(model)).unwrap();
        let tokenizer = Tokenizer::open(source.as_ref()).unwrap();
        let template = ChatTemplate::open(&tokenizer).unwrap();
        let text = template.render(&[Message::new("user", "Hi")], true).unwrap();
        assert_eq!(text, wanted, "{model}");
        let ids = tokenizer.encode(&text, Special::RENDERED).unwrap();
        assert!(ids.iter().filter(|id| tokenizer.eos().contains(id)).count() == 1, "{model}: one turn ends: {ids:?}");
    }
    // A template in a file of its own.
    for model in ["tiny-qwen3", "tiny-qwen3-moe", "tiny-olmo2", "tiny-llama-bias"] {
        let source = checkpoint::open(&common::fixtures().join("models").join(model)).unwrap();
        let template = ChatTemplate::open(&Tokenizer::open(source.as_ref()).unwrap()).unwrap();
        let text = template.render(&[Message::new("user", "Hi")], true).unwrap();
        assert!(text.contains("<|im_start|>user\nHi<|im_end|>\n") && text.ends_with("assistant\n"), "{model}: {text}");
    }
    let source = checkpoint::open(&common::fixtures().join("models/stories260k")).unwrap();
    let error = ChatTemplate::open(&Tokenizer::open(source.as_ref()).unwrap()).unwrap_err().explain();
    assert!(error.contains("no chat template"), "{error}");
}

/// ChatML with a default system turn, a namespace and a loop over the rest.
const CHATML: &str = "\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system_message = messages[0]['content'] -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system_message = 'You help.' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- set ns = namespace(turns=0) -%}
{{- '<|im_start|>system\\n' + system_message.strip() + '<|im_end|>\\n' }}
{% for message in rest %}
    {% if message.role == 'user' %}{% set ns.turns = ns.turns + 1 %}{% endif %}
{{ '<|im_start|>' ~ message.role }}
{{ message.content | trim }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant {{ ns.turns }}
{% endif %}";

/// Llama 3.2: a date that needs no clock, tools that are none, slices, `is defined`.
const LLAMA: &str = "\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}
        {%- set date_string = '26 Jul 2024' %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\\n' }}
{%- endif %}
{{- 'Today Date: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}";

/// Gemma: turns must alternate, the assistant is called model, no system.
const GEMMA: &str = "\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}";

/// Mistral: the system text goes into the last user turn; JSON, filters with arguments, Python's methods.
const MISTRAL: &str = "\
{%- set loop_messages = messages | selectattr('role', '!=', 'system') | list %}
{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join(' ') %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system.startswith('Be') %}
            {{- '[INST] ' + system.upper().replace('.', '!') + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] | tojson + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {%- generation -%}
        {{- ' ' + message['content'] + eos_token }}
        {%- endgeneration -%}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, not ' + message['role'] + '!') }}
    {%- endif %}
{%- endfor %}
{{- loop_messages[0] | tojson }}{{ [1, {'a': none}] | tojson(indent=2) }}
{%- for key, value in loop_messages[0].items() %}{{ key }}={{ value.split()[0] }};{% endfor %}
{%- for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}";

#[test]
fn real_constructs_render_as_jinja2_does() {
    let all = conversation();
    for (name, template, messages) in [
        ("chatml", CHATML, &all[..]),
        ("chatml-default", CHATML, &all[1..2]),
        ("llama", LLAMA, &all),
        ("llama-without-system", LLAMA, &all[1..2]),
        ("gemma", GEMMA, &all[1..]),
        ("mistral", MISTRAL, &all),
    ] {
        let wanted = EXPECTED.iter().find(|e| e.0 == name).unwrap().1;
        assert_eq!(render(template, messages).unwrap(), wanted, "{name}");
    }
    let refused = render(GEMMA, &all).unwrap_err();
    assert!(refused.contains("System role not supported"), "{refused}");
    let refused = render(GEMMA, &all[2..]).unwrap_err();
    assert!(refused.contains("must alternate"), "{refused}");
}

#[test]
fn faults_of_templates_are_errors() {
    for (template, words) in [
        ("{% if %}", "line 1"),
        ("{{ unclosed", "line 1"),
        ("a\n{{ nothing.of.it }}", "line 2"),
        ("{{ messages[0].content.nonsense() }}", "nonsense; write the template without it"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
        ("{{ 'a' * 99999999999 }}", "fuel"),
        ("{% include '/etc/passwd' %}", "passwd"),
    ] {
        let error = render(template, &conversation()).expect_err(template);
        assert!(error.contains(words) && error.contains("chat template"), "{template}: {error}");
    }
    // A clock that stands still.
    let date = render("{{ strftime_now('%d %B %Y, %%') }}", &conversation()).unwrap();
    assert_eq!(date, "26 July 2024, %");
}

/// What Jinja2 3 wrote.
#[rustfmt::skip]
const EXPECTED: &[(&str, &str)] = &[
    ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n\n<|im_start|>user\nHi <b>\"there\"</b><|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant 2\n"),
    ("chatml-default", "<|im_start|>system\nYou help.<|im_end|>\n\n<|im_start|>user\nHi <b>\"there\"</b><|im_end|>\n<|im_start|>assistant 1\n"),
    ("llama", "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi <b>\"there\"</b><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("llama-without-system", "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi <b>\"there\"</b><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("gemma", "<s><start_of_turn>user\nHi <b>\"there\"</b><end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"),
    ("mistral", "<s>[INST] \" Hi <b>\\\"there\\\"</b>\\n\" [/INST] Hello.</s>[INST] BE BRIEF!\n\nBye [/INST]{\"role\": \"user\", \"content\": \" Hi <b>\\\"there\\\"</b>\\n\"}[\n  1,\n  {\n    \"a\": null\n  }\n]role=user;content=Hi;013"),
];
