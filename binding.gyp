{
  # Only for tools that insist on node-gyp (prebuildify): everything is built by CMake, see CMakeLists.txt.
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
          ]
        }
      ]
    }
  ]
}
