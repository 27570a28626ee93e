// Starts the viewer of a report when asked to, and says so where the browser cannot.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const state = document.getElementById("viewer-state");
  const start = document.getElementById("viewer-start");
  const controls = document.getElementById("viewer-controls");
  const canvas = document.getElementById("viewer-canvas");

  function say(kind, words) {
    state.dataset.state = kind;
    state.textContent = words;
  }

  function labels(colors) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    colors.forEach(([r, g, b], n) => {
      table.R.push(r); table.G.push(g); table.B.push(b); table.A.push(255); table.I.push(n + 1); table.labels.push("");
    });
    return table;
  }

  function control(view, layer, index) {
    const line = document.createElement("label");
    const box = document.createElement("input");
    const swatch = document.createElement("span");
    box.type = "checkbox";
    box.checked = layer.shown;
    box.addEventListener("change", () => view.setOpacity(index, box.checked ? layer.opacity : 0));
    swatch.className = "swatch";
    swatch.style.background = `rgb(${layer.colors[0].join(",")})`;
    line.append(box, swatch, layer.name);
    controls.append(line);
  }

  async function run() {
    start.disabled = true;
    say("loading", "Loading; without a graphics card this takes some seconds.");
    const view = new niivue.Niivue({
      backColor: [0.067, 0.075, 0.082, 1],
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      show3Dcrosshair: true,
      crosshairWidth: 0.5,
      dragAndDropEnabled: false,
      loadingText: "",
    });
    canvas.hidden = false;
    await view.attachToCanvas(canvas);
    view.setSliceType(view.sliceTypeMultiplanar);
    for (const [index, layer] of data.layers.entries()) {
      const volume = await niivue.NVImage.loadFromBase64({
        base64: layer.file, name: `${index}.nii.gz`, opacity: layer.shown ? layer.opacity : 0,
        colormap: "gray", cal_min: layer.range[0], cal_max: layer.range[1],
      });
      if (layer.colors.length) {
        volume.setColormapLabel(labels(layer.colors));
      }
      view.addVolume(volume);
      if (layer.colors.length) {
        control(view, layer, index);
      }
    }
    view.updateGLVolume();
    start.hidden = true;
    say("ready", data.words);
  }

  function begin() {
    run().catch((problem) => {
      canvas.hidden = true;
      start.hidden = true;
      say("failed", `The viewer could not start (${problem.message || problem}). The figures above show the same.`);
    });
  }

  if (!document.createElement("canvas").getContext("webgl2")) {
    start.hidden = true;
    say("no-webgl", "This browser offers no WebGL 2, which the viewer needs. The figures above show the same.");
    return;
  }
  start.hidden = false;
  start.addEventListener("click", begin);
  if (location.hash === "#viewer") {
    begin();
  }
})();
