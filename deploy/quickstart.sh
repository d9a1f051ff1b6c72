#!/usr/bin/env bash
# From a fresh Debian machine to a chat with a quantized model, in one command:
# installs Debian's packages, builds, starts the daemon, uploads the sample model over HTTP,
# quantizes it to INT4 as a job, and asks it a question.
#
#   ./deploy/quickstart.sh           leaves the daemon running
#   ./deploy/quickstart.sh --check   does the same and stops the daemon
set -euo pipefail
cd "$(dirname "$0")/.."

check=
case "${1:-}" in
'') ;;
--check) check=1 ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac

port=${PHID_QUICKSTART_PORT:-8080}
base=http://127.0.0.1:$port
work=${PHID_QUICKSTART_DIR:-build/quickstart}
phid=build/release/server/phid
steps=()
pid=

now_ms() { date +%s%3N; }

# step NAME COMMAND...: runs it quietly and remembers how long it took.
step() {
    local name=$1 began log
    shift
    began=$(now_ms)
    log=$work/step.log
    printf '%-46s' "$name ..."
    if ! "$@" >"$log" 2>&1; then
        echo failed
        tail -n 30 "$log" >&2
        exit 1
    fi
    local took=$(($(now_ms) - began))
    printf '%6d.%03d s\n' $((took / 1000)) $((took % 1000))
    steps+=("$name")
}

stop_daemon() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        pid=
    fi
}
on_exit() {
    local code=$?
    if [ "$code" != 0 ] || [ -n "$check" ]; then
        stop_daemon
    fi
}
trap on_exit EXIT

# json EXPRESSION: evaluates a Python expression on the JSON in standard input, called d.
json() { python3 -c 'import json,sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }

build() {
    cmake --preset release -DPHID_TESTS=OFF
    cmake --build --preset release
}

start() {
    if curl -fsS "$base/healthz" >/dev/null 2>&1; then
        echo "something answers at $base already; set PHID_QUICKSTART_PORT to another port"
        return 1
    fi
    setsid "$phid" serve --listen "127.0.0.1:$port" --data-dir "$work/data" \
        >"$work/phid.log" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 100); do
        curl -fsS "$base/healthz" >/dev/null 2>&1 && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/phid.log"
    return 1
}

upload() {
    : >"$work/files"
    local name answer
    for name in config.json generation_config.json tokenizer.json tokenizer_config.json \
        model.safetensors; do
        answer=$(curl -fsS "$base/v1/files" -F purpose=model -F "file=@models/phi-sample/$name")
        echo "$answer"
        json 'd["id"]' <<<"$answer" >>"$work/files"
    done
    # The quality is measured on text of the kind that the sample model knows.
    answer=$(curl -fsS "$base/v1/files" -F purpose=calibration -F file=@models/phi-sample/heldout.txt)
    json 'd["id"]' <<<"$answer" >"$work/heldout"
}

quantize() {
    local files job status
    files=$(sed 's/.*/"&"/' "$work/files" | paste -sd,)
    job=$(curl -fsS "$base/v1/quantization/jobs" -H 'Content-Type: application/json' -d "{
        \"model\": \"phi-sample\", \"precision\": \"int4\", \"source\": {\"files\": [$files]},
        \"quality\": {\"file\": \"$(cat "$work/heldout")\"}}" |
        json 'd["id"]')
    for _ in $(seq 600); do
        curl -fsS "$base/v1/quantization/jobs/$job" >"$work/job.json"
        status=$(json 'd["status"]' <"$work/job.json")
        case $status in
        succeeded) return 0 ;;
        failed | cancelled)
            cat "$work/job.json"
            return 1
            ;;
        esac
        sleep 0.1
    done
    echo "the job took longer than a minute"
    return 1
}

question='What is 12 plus 7?'
ask() {
    curl -fsS "$base/v1/chat/completions" -H 'Content-Type: application/json' -d "{
        \"model\": \"phi-sample:int4\", \"temperature\": 0,
        \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}" >"$work/answer.json"
    json 'd["choices"][0]["message"]["content"]' <"$work/answer.json" >"$work/answer.txt"
    [ -s "$work/answer.txt" ]
}

mkdir -p "$work"
if [ -n "$check" ]; then
    rm -rf "$work/data"
fi
step 'install packages' ./deploy/install-packages.sh build
step 'build' build
step 'start the daemon' start
step 'upload the sample model' upload
step 'quantize it to INT4 and measure the quality' quantize
step 'chat with it' ask

echo
json '"quality: perplexity %.3f (source %.3f), mean KL divergence %.4f, same top token %.1f%%" % (
    d["quality"]["perplexity"]["result"], d["quality"]["perplexity"]["source"],
    d["quality"]["kl_divergence"]["mean"], 100 * d["quality"]["top1_agreement"])' <"$work/job.json"
echo "question: $question"
echo "answer:   $(cat "$work/answer.txt")"
if [ -n "$check" ]; then
    exit 0
fi
cat <<END

The daemon runs as process $pid; stop it with: kill $pid
Its log is $work/phid.log, its data $work/data. Go on with:

  curl $base/v1/models
  curl $base/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{"model": "phi-sample:int4", "stream": true,
            "messages": [{"role": "user", "content": "Tell me a story about a cat."}]}'
  curl $base/v1/quantization/jobs
  curl $base/metrics
END
