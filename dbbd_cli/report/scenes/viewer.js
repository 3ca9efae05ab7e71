// Turns the point clouds of a report in 3D with plain WebGL. Without WebGL, the picture in the page stays.
// Of each point: its place as 3 x 16 bits in the bounding box, and 3 x 8 bits of color for each layer; both padded.
"use strict";
(() => {
  const VERTEX = `
    attribute vec3 place; attribute vec3 color;
    uniform mat4 camera; uniform vec3 size; uniform float cut, diameter;
    varying vec3 shade;
    void main() {
      vec3 p = (place - 0.5) * size;
      gl_Position = camera * vec4(p, 1.0);
      gl_PointSize = place.z > cut ? 0.0 : clamp(diameter / gl_Position.w, 1.5, 40.0);
      if (place.z > cut) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
      shade = color;
    }`;
  const FRAGMENT = `
    precision mediump float;
    varying vec3 shade;
    void main() {
      float r = 2.0 * length(gl_PointCoord - 0.5);
      if (r > 1.0) discard;
      gl_FragColor = vec4(shade * (1.0 - 0.35 * r * r), 1.0);
    }`;
  const FIELD = Math.tan(Math.PI / 9); // half of the field of view of the shorter side, 40 degrees
  const START = {yaw: -0.5, pitch: 0.9, distance: 0, x: 0, y: 0, z: 0};

  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

  const element = (parent, tag, attributes, text) => {
    const made = parent.appendChild(document.createElement(tag));
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  };

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    return gl.getProgramParameter(made, gl.LINK_STATUS) ? made : null;
  }

  // The axes of the camera: where it looks from, to its right, and up.
  function axes({yaw, pitch}) {
    const [c, s, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return {back: [s * cp, -c * cp, sp], right: [c, s, 0], up: [-s * sp, c * sp, cp]};
  }

  const fieldOf = (width, height) => FIELD * Math.max(1, height / width); // half of that of the height

  function matrix(view, width, height) {
    const {back, right, up} = axes(view);
    const near = view.distance / 50, far = view.distance * 50;
    const target = [view.x, view.y, view.z];
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const sy = 1 / fieldOf(width, height), sx = sy * height / width;
    const a = (far + near) / (near - far), b = 2 * far * near / (near - far);
    const depth = -dot(back, target) - view.distance; // of the origin
    const columns = [0, 1, 2].map(i => [sx * right[i], sy * up[i], a * back[i], -back[i]]);
    return new Float32Array([...columns.flat(), -sx * dot(right, target), -sy * dot(up, target), a * depth + b, -depth]);
  }

  function start(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const scene = document.createElement("div");
    scene.className = "scene";
    const tabs = element(scene, "div", {class: "tabs", role: "tablist"});
    const canvas = element(scene, "canvas", {tabindex: "0", role: "img", "aria-label": data.label});
    const gl = canvas.getContext("webgl", {antialias: true});
    const shaders = gl && program(gl);
    if (!shaders) return;
    const row = element(scene, "label", {class: "cut"}, "Height shown: ");
    const cut = element(row, "input", {type: "range", min: "0.05", max: "1", step: "0.01", value: data.cut});
    const legend = element(scene, "div", {class: "legend"});
    element(scene, "p", {class: "hint"}, "Drag to turn, with Shift or two fingers to move, scroll or pinch to zoom; "
      + "double-click to start over. Keys: arrows, +, - and 0.");
    figure.append(scene);
    figure.classList.add("live"); // hides the picture

    gl.useProgram(shaders);
    gl.enable(gl.DEPTH_TEST);
    const uniform = name => gl.getUniformLocation(shaders, name);
    const buffers = {place: gl.createBuffer(), color: gl.createBuffer()};
    const attribute = (name, type, values) => {
      const place = gl.getAttribLocation(shaders, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, type, true, type === gl.UNSIGNED_SHORT ? 8 : 4, 0);
    };
    attribute("place", gl.UNSIGNED_SHORT, new Uint16Array(bytes(data.place).buffer));
    const [w, d, h] = data.size;
    gl.uniform3f(uniform("size"), w, d, h);
    const spacing = Math.sqrt(2 * (w * d + w * h + d * h) / data.count);
    const home = {...START, distance: 0.5 * Math.hypot(w, d, h) / FIELD};
    let view = {...home}, waiting = false;

    function draw() {
      waiting = false;
      const scale = Math.min(window.devicePixelRatio || 1, 2);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map(side => Math.max(1, Math.round(side * scale)));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
      gl.viewport(0, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); // transparent: the page shows its own color
      gl.uniformMatrix4fv(uniform("camera"), false, matrix(view, width, height));
      gl.uniform1f(uniform("cut"), Number(cut.value));
      gl.uniform1f(uniform("diameter"), spacing * height / (2 * fieldOf(width, height)) * 1.2);
      gl.drawArrays(gl.POINTS, 0, data.count);
    }
    const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };

    const buttons = data.layers.map(layer => {
      const button = element(tabs, "button", {type: "button", role: "tab"}, layer.name);
      button.onclick = () => {
        attribute("color", gl.UNSIGNED_BYTE, bytes(layer.color));
        buttons.forEach(other => other.setAttribute("aria-selected", other === button));
        legend.replaceChildren();
        for (const [name, color] of layer.legend) {
          const entry = element(legend, "span");
          if (color) element(entry, "i").style.background = color;
          entry.append(name);
        }
        redraw();
      };
      return button;
    });

    const turn = (dx, dy) => {
      view.yaw -= dx;
      view.pitch = Math.max(-1.55, Math.min(1.55, view.pitch + dy));
      redraw();
    };
    const zoom = factor => {
      view.distance = Math.max(home.distance / 100, Math.min(home.distance * 10, view.distance * factor));
      redraw();
    };
    const move = (dx, dy) => { // pixels
      const {right, up} = axes(view), {clientWidth, clientHeight} = canvas;
      const step = 2 * fieldOf(clientWidth, clientHeight) * view.distance / clientHeight;
      ["x", "y", "z"].forEach((axis, i) => { view[axis] += step * (dy * up[i] - dx * right[i]); });
      redraw();
    };
    const pointers = new Map();
    canvas.onpointerdown = event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
    };
    canvas.onpointerup = canvas.onpointercancel = event => pointers.delete(event.pointerId);
    canvas.onpointermove = event => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      if (pointers.size > 1) {
        const other = [...pointers.values()].find(one => one.pointerId !== event.pointerId);
        const gap = one => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
        zoom(Math.max(gap(before), 1) / Math.max(gap(event), 1));
        move(dx / 2, dy / 2);
      } else if (event.shiftKey || event.buttons & 6) {
        move(dx, dy);
      } else {
        turn(dx * 0.008, dy * 0.008);
      }
      pointers.set(event.pointerId, event);
    };
    canvas.oncontextmenu = event => event.preventDefault();
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY * (event.deltaMode ? 20 : 1))) * 0.003));
    }, {passive: false});
    canvas.ondblclick = () => { view = {...home}; redraw(); };
    canvas.onkeydown = event => {
      const action = {
        ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0),
        ArrowUp: () => turn(0, -0.1), ArrowDown: () => turn(0, 0.1),
        "+": () => zoom(0.9), "-": () => zoom(1.1), "0": canvas.ondblclick,
      }[event.key];
      if (action) { event.preventDefault(); action(); }
    };
    canvas.addEventListener("webglcontextlost", () => { scene.remove(); figure.classList.remove("live"); });
    cut.oninput = redraw;
    new ResizeObserver(redraw).observe(canvas);
    buttons[0].click();
    draw();
  }

  document.querySelectorAll("figure.points").forEach(start);
})();
