// run.cpp: runs translated pipelines on the CPU. It is linked with those that `conformance msl` or `conformance dxil` wrote, reads a
// file of vectors (src/vectors.rs) and the list beside the pipelines, and writes a file of answers.
//
//     run VECTORS LIST ANSWERS ABOUT

#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernel.hpp"

using nlohmann::json;
using Bytes = std::vector<char>;

/// What the program is told of a pipeline.
struct Pipeline {
    std::uint32_t invocations;
    bool waits;
    std::vector<std::uint32_t> sized;
};

/// Words on a boundary that suits every type, as buffers on a GPU start on one.
struct alignas(256) Block {
    char bytes[256];
};

struct Buffer {
    std::vector<Block> blocks;

    explicit Buffer(std::size_t size) : blocks((size + sizeof(Block) - 1) / sizeof(Block)) {}

    char* start() { return blocks.data()->bytes; }
};

/// Where the invocations of a workgroup meet; none where they do not wait for each other.
static std::barrier<>* meeting = nullptr;

void workgroup_barrier() { meeting->arrive_and_wait(); }

char workgroup_memory[65536];

static Bytes read_file(char const* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string("cannot read ") + path);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

/// One invocation of every workgroup, or, where `local` is not given, all of them in turn.
static void run_workgroups(unsigned number, Pipeline const& pipeline, std::vector<std::uint32_t> const& grid,
                           Bound const* bound, std::optional<std::uint32_t> local) {
    Invocation at{bound, {}, 0};
    auto& [x, y, z] = at.workgroup;
    for (z = 0; z < grid[2]; ++z) {
        for (y = 0; y < grid[1]; ++y) {
            for (x = 0; x < grid[0]; ++x) {
                if (local) {
                    at.local = *local;
                    kernels[number](at);
                    // The next workgroup has the same memory.
                    workgroup_barrier();
                    continue;
                }
                for (at.local = 0; at.local < pipeline.invocations; ++at.local) kernels[number](at);
            }
        }
    }
}

static Access access_of(std::string const& name) {
    return name == "uniform" ? Access::uniform : name == "storage" ? Access::read_write : Access::read;
}

static void run_dispatch(unsigned number, Pipeline const& pipeline, json const& dispatch, std::vector<Buffer>& buffers) {
    std::vector<json> bindings = dispatch["bindings"];
    std::sort(bindings.begin(), bindings.end(),
              [](json const& a, json const& b) { return a["binding"] < b["binding"]; });
    std::vector<Bound> bound;
    for (auto const& each : bindings) {
        char* const start = buffers.at(each["buffer"]).start() + std::size_t(each["offset"]);
        bound.push_back({start, each["size"], access_of(each["access"])});
    }
    std::vector<std::uint32_t> sizes;
    for (auto binding : pipeline.sized) {
        for (auto const& each : bindings) {
            if (each["binding"] == binding) sizes.push_back(each["size"]);
        }
    }
    bound.push_back({sizes.data(), std::uint32_t(4 * sizes.size()), Access::internal});
    std::vector<std::uint32_t> grid = dispatch["workgroups"];
    if (!pipeline.waits) {
        run_workgroups(number, pipeline, grid, bound.data(), {});
        return;
    }
    std::barrier<> barrier(pipeline.invocations);
    meeting = &barrier;
    std::vector<std::thread> threads;
    for (std::uint32_t local = 0; local < pipeline.invocations; ++local) {
        threads.emplace_back(run_workgroups, number, pipeline, grid, bound.data(), local);
    }
    for (auto& thread : threads) thread.join();
    meeting = nullptr;
}

/// Appends what the buffers that are written hold after a vector's dispatches.
static void run_vector(json const& vector, std::vector<unsigned> const& numbers, std::vector<Pipeline> const& pipelines,
                       char const* contents, Bytes& answers) {
    std::vector<Buffer> buffers;
    for (auto const& buffer : vector["buffers"]) {
        buffers.emplace_back(buffer["size"]);
        std::memcpy(buffers.back().start(), contents + std::size_t(buffer["initial"]), buffer["size"]);
    }
    for (std::size_t at = 0; at < numbers.size(); ++at) {
        run_dispatch(numbers[at], pipelines.at(numbers[at]), vector["dispatches"][at], buffers);
    }
    for (std::size_t at = 0; at < buffers.size(); ++at) {
        auto const& buffer = vector["buffers"][at];
        if (buffer["expected"].is_null()) continue;
        answers.insert(answers.end(), buffers[at].start(), buffers[at].start() + std::size_t(buffer["size"]));
    }
}

static void run(char const* vectors_path, char const* list_path, char const* answers_path, char const* about) {
    Bytes const file = read_file(vectors_path);
    std::uint64_t length = 0;
    if (file.size() < sizeof length) throw std::runtime_error("no file of vectors");
    std::memcpy(&length, file.data(), sizeof length);
    char const* const head = file.data() + sizeof length;
    json const vectors = json::parse(head, head + length)["vectors"];
    json const list = json::parse(read_file(list_path));

    std::vector<Pipeline> pipelines;
    for (auto const& each : list["pipelines"]) {
        std::vector<std::uint32_t> const workgroup = each["workgroup"];
        pipelines.push_back({workgroup.at(0) * workgroup.at(1) * workgroup.at(2), each["waits"], each["sized"]});
    }
    Bytes answers;
    for (std::size_t at = 0; at < vectors.size(); ++at) {
        run_vector(vectors[at], list["of_vectors"].at(at), pipelines, head + length, answers);
    }

    std::string const text = json{{"about", about}, {"failures", json::object()}}.dump();
    length = text.size();
    std::ofstream out(answers_path, std::ios::binary);
    out.write(reinterpret_cast<char const*>(&length), sizeof length);
    out.write(text.data(), std::streamsize(text.size()));
    out.write(answers.data(), std::streamsize(answers.size()));
    if (!out.flush()) throw std::runtime_error(std::string("cannot write ") + answers_path);
}

int main(int count, char** arguments) try {
    if (count != 5) throw std::runtime_error("usage: run VECTORS LIST ANSWERS ABOUT");
    run(arguments[1], arguments[2], arguments[3], arguments[4]);
    return 0;
} catch (std::exception const& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
}
