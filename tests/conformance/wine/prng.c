/* bcryptprimitives.dll for Wine 8, which has none: Rust's standard library asks it for random bytes. */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T size)
{
    return RtlGenRandom(bytes, (ULONG)size);
}
