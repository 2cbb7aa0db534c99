// compile.cpp: compiles the pipelines of `conformance hlsl` with DXC, Microsoft's HLSL compiler, as wgpu's Direct3D 12 backend does.
// Beside each text it writes the DXIL that became of it, which is LLVM's bitcode; in `version`, what the compiler says it is.
//
//     compile LIBDXCOMPILER FOLDER

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "dxcapi.h"

using nlohmann::json;

static void check(HRESULT result, char const* what) {
    if (FAILED(result)) throw std::runtime_error(std::string(what) + " failed: " + std::to_string(result));
}

static std::string read_file(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

static void write_file(std::string const& path, std::string const& bytes) {
    std::ofstream file(path, std::ios::binary);
    file << bytes;
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

static std::string bytes_of(IDxcBlob* blob) {
    return std::string(static_cast<char const*>(blob->GetBufferPointer()), blob->GetBufferSize());
}

template <class T>
static CComPtr<T> created(DxcCreateInstanceProc create, CLSID const& id, char const* what) {
    CComPtr<T> object;
    check(create(id, IID_PPV_ARGS(&object)), what);
    return object;
}

/// Said of everything where the library that signs for Windows is missing.
static std::string const unsigned_warning =
    "warning: DXIL.dll not found.  Resulting DXIL will not be signed for use in release environments.\r\n\n";

/// What the compiler has to say, warnings too.
static std::string messages(IDxcResult* result) {
    CComPtr<IDxcBlobUtf8> text;
    result->GetOutput(DXC_OUT_ERRORS, IID_PPV_ARGS(&text), nullptr);
    std::string all = text ? std::string(text->GetStringPointer(), text->GetStringLength()) : "";
    if (all == unsigned_warning) all.clear();
    HRESULT status = S_OK;
    check(result->GetStatus(&status), "GetStatus");
    return FAILED(status) && all.empty() ? "failed: " + std::to_string(status) : all;
}

static std::uint32_t word_at(std::string const& bytes, std::size_t at) {
    std::uint32_t word = 0;
    if (at + sizeof word > bytes.size()) throw std::runtime_error("a container that is cut off");
    std::memcpy(&word, bytes.data() + at, sizeof word);
    return word;
}

/// The bitcode in a container: the start of a part is listed behind a header of 28 bytes and their number; a part has a name and a
/// size before it; that of the program has a header with place and size of the bitcode, counted from a second name in it.
static std::string bitcode_of(std::string const& container) {
    for (std::uint32_t part = 0; part < word_at(container, 28); ++part) {
        std::size_t const start = word_at(container, 32 + 4 * part);
        if (container.compare(start, 4, "DXIL") != 0) continue;
        std::size_t const name = start + 16;
        return container.substr(name + word_at(container, name + 8), word_at(container, name + 12));
    }
    throw std::runtime_error("a container without DXIL");
}

struct Compiler {
    CComPtr<IDxcCompiler3> compiler;
    CComPtr<IDxcValidator> validator;

    /// Nothing, where the compiler has nothing to say: to wgpu any word is an error.
    std::string compile(std::string const& file, std::string const& entry_point) const {
        std::string const text = read_file(file + ".hlsl");
        std::wstring const entry(entry_point.begin(), entry_point.end());
        LPCWSTR arguments[] = {L"-E", entry.c_str(), L"-T", L"cs_6_0", L"-HV", L"2018", L"-no-warnings", DXC_ARG_ENABLE_STRICTNESS};
        DxcBuffer const source{text.data(), text.size(), DXC_CP_UTF8};
        CComPtr<IDxcResult> result;
        check(compiler->Compile(&source, arguments, std::size(arguments), nullptr, IID_PPV_ARGS(&result)), "Compile");
        if (auto said = messages(result); !said.empty()) return said;
        CComPtr<IDxcBlob> made;
        check(result->GetOutput(DXC_OUT_OBJECT, IID_PPV_ARGS(&made), nullptr), "GetOutput");
        CComPtr<IDxcOperationResult> validated;
        check(validator->Validate(made, DxcValidatorFlags_Default, &validated), "Validate");
        HRESULT status = S_OK;
        check(validated->GetStatus(&status), "GetStatus");
        if (SUCCEEDED(status)) {
            write_file(file + ".bc", bitcode_of(bytes_of(made)));
            return "";
        }
        CComPtr<IDxcBlobEncoding> errors;
        check(validated->GetErrorBuffer(&errors), "GetErrorBuffer");
        return "the validator: " + bytes_of(errors);
    }
};

static void run(char const* library_path, std::string const& folder) {
    void* const library = dlopen(library_path, RTLD_NOW);
    if (!library) throw std::runtime_error(dlerror());
    auto const create = reinterpret_cast<DxcCreateInstanceProc>(dlsym(library, "DxcCreateInstance"));
    if (!create) throw std::runtime_error(dlerror());
    Compiler const dxc{created<IDxcCompiler3>(create, CLSID_DxcCompiler, "the compiler"),
                       created<IDxcValidator>(create, CLSID_DxcValidator, "the validator")};
    UINT32 major = 0, minor = 0;
    CComPtr<IDxcVersionInfo> version;
    check(dxc.compiler->QueryInterface(IID_PPV_ARGS(&version)), "the version");
    check(version->GetVersion(&major, &minor), "GetVersion");

    json const list = json::parse(read_file(folder + "/list.json"));
    std::vector<std::string> said;
    for (auto const& pipeline : list["pipelines"]) {
        said.push_back(dxc.compile(folder + "/" + std::to_string(said.size()), pipeline["entry_point"]));
    }
    write_file(folder + "/version", "DXC " + std::to_string(major) + "." + std::to_string(minor));
    for (std::size_t at = 0; at < said.size(); ++at) {
        if (!said[at].empty()) throw std::runtime_error("pipeline " + std::to_string(at) + ": " + said[at]);
    }
}

int main(int count, char** arguments) {
    int status = 0;
    try {
        if (count != 3) throw std::runtime_error("usage: compile LIBDXCOMPILER FOLDER");
        run(arguments[1], arguments[2]);
    } catch (std::exception const& failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        status = 1;
    }
    // Without what the library does at the end of a program: there it crashes.
    std::fflush(nullptr);
    std::_Exit(status);
}
