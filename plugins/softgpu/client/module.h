// Modules, functions and libraries: what their entry points share.
#pragma once

#include <string>
#include <vector>

#include "plugins/softgpu/client/entry_points.h"

namespace softgpu {

// Images that are not text: NO_BINARY_FOR_GPU.
cuda_abi::CUresult LoadModuleText(Id context, const void* image, Id& module);
cuda_abi::CUresult ReadModuleFile(const char* path, std::string& text);
cuda_abi::CUresult FindFunction(Id module, const char* name, Id& function);
cuda_abi::CUresult FindGlobal(Id module, cuda_abi::CUdeviceptr* pointer, std::size_t* bytes, const char* name);
// How many kernels a module has, and the name of one; none if there are fewer.
cuda_abi::CUresult ModuleKernel(Id module, std::uint32_t index, std::uint32_t& count, std::string* name);
// Of a function, or of a kernel in the current context.
cuda_abi::CUresult InspectFunction(Id handle, FunctionDescription& info, std::string* name = nullptr);
cuda_abi::CUresult FunctionAttribute(const FunctionDescription& info, cuda_abi::CUfunction_attribute attribute,
                                     int& value);
cuda_abi::CUresult SetFunctionAttribute(Id handle, cuda_abi::CUfunction_attribute attribute, int value);
// A copy that stays for ever, since callers may keep it as long as they like; there are few names.
const char* KeepName(const std::string& name);

bool IsKernel(Id handle);
// The function that a kernel is in `context`, loading its library there if need be; a function is its own.
cuda_abi::CUresult ResolveKernel(Id handle, Id context, Id& function);

}  // namespace softgpu
