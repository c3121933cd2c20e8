/* Search from the disk: where a page is a file, browsers start no worker. This one runs the script of a worker in a
   hidden frame instead and passes messages between the two. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(source) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html><html></html>"
      frame.addEventListener("load", () => this.start(frame.contentWindow, source), { once: true })
      const add = () => document.body.append(frame)
      document.body ? add() : addEventListener("DOMContentLoaded", add)
    }

    start(inner, source) {
      inner.importScripts = (...scripts) => scripts.reduce(
        (before, script) => before.then(() => load(inner, new URL(script, source))), Promise.resolve())
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      load(inner, source).then(() => {
        this.inner = inner
        this.waiting.splice(0).forEach((data) => this.postMessage(data))
      })
    }

    postMessage(data) {
      if (this.inner) this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }))
      else this.waiting.push(data)
    }

    terminate() {
      this.inner?.frameElement?.remove()
    }
  }

  function load(inner, source) {
    return new Promise((resolve, reject) => {
      const script = inner.document.createElement("script")
      script.src = source
      script.onload = resolve
      script.onerror = reject
      inner.document.head.append(script)
    })
  }
}
