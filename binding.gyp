{
  # Only for tools that insist on node-gyp (prebuildify): everything is built by CMake, see CMakeLists.txt.
  # GYP_DEFINES=jit_flux_cuda=1 makes it the CUDA build.
  "variables": { "jit_flux_cuda%": 0 },
  "targets": [
    {
      "target_name": "jit_flux",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/jit_flux.node"],
          "action": [
            "node",
            "scripts/build-native.mjs",
            "--arch=<(target_arch)",
            "--config=<(CONFIGURATION_NAME)",
            "--out=<(PRODUCT_DIR)"
          ],
          "conditions": [["jit_flux_cuda==1", { "action": ["--cuda"] }]]
        }
      ]
    }
  ]
}
