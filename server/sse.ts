import type { ServerResponse } from 'node:http'
import { PREDICTION_ERRORS } from './errors.js'
import { stringifySorted } from './json.js'
import type { Prediction, PredictionEvent } from './prediction.js'
import type { Schedule } from './service.js'

/** A comment is sent after so long without an event, so that proxies keep the connection: Cog's number. */
const KEEP_ALIVE_MS = 15_000
/** How long a reader that was cut off, or whose prediction has ended, may take to read what is left. */
const LINGER_MS = 30_000

export interface StreamOptions {
  readonly prediction: Prediction
  readonly response: ServerResponse
  readonly schedule: Schedule
  readonly bufferBytes: number
  /** Number of the last event that the reader has: the stream begins behind it. −1 is none. */
  readonly after: number
  /** Whether each event carries its number as `id`. */
  readonly ids: boolean
  /** Whether the prediction waits in the queue: then the comment is said at once, too, so that its reader knows. */
  readonly waits: boolean
  /** What a quiet stream says to keep its connection: one line. */
  readonly comment: () => string
  /** Called at most once, when this reader stops following before the end: it left, fell behind, or came too late. */
  readonly onLeave: (reason: 'closed' | 'lagged' | 'truncated') => void
}

/**
 * Writes a prediction's events to one reader as Server-Sent Events: all that it has not got, then live, until it ends.
 *
 * What happens in one turn of the event loop is one write. A reader that does not keep up is told so and cut off when
 * more than `bufferBytes` wait for it; the prediction and its other readers never wait.
 */
export function streamPrediction(options: StreamOptions): void {
  new EventStream(options)
}

class EventStream {
  readonly #options: StreamOptions
  readonly #keepAlive: { cancel(): void; refresh(): void }
  #pending = ''
  /** Number of the next event. */
  #next = 0
  #eventsPending = 0
  #flushing = false
  #blocked = false
  #over = false
  #linger: { cancel(): void } | undefined
  #unsubscribe: () => void = () => {}

  constructor(options: StreamOptions) {
    this.#options = options
    const { prediction, response, schedule } = options
    this.#keepAlive = schedule(KEEP_ALIVE_MS, () => this.#comment())
    if (response.destroyed) {
      // The reader has left before its prediction was accepted.
      this.#closed()
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    response.on('drain', () => {
      this.#blocked = false
      this.#flush()
    })
    response.once('close', () => this.#closed())
    // A reset by the reader; `close` follows and does the rest.
    response.on('error', () => {})

    const { events, dropped, next, unsubscribe } = prediction.subscribe((event) => this.#send(event), options.after)
    this.#unsubscribe = unsubscribe
    this.#next = next
    if (this.#options.waits) this.#comment()
    if (dropped > 0) this.#cutOff('truncated', dropped)
    else for (const event of events) this.#send(event)
    // A reader who has all so far must not wait for the head, too.
    if (events.length === 0) response.flushHeaders()
    // The reader had its last event already.
    if (prediction.isFinal && !this.#over) this.#finish()
  }

  #send(event: PredictionEvent): void {
    if (this.#over) return
    const number = this.#next++
    if (this.#options.ids) this.#pending += `id: ${number}\n`
    this.#pending += encodeEvent(event)
    this.#eventsPending++
    this.#keepAlive.refresh()
    if (event.name === 'completed') this.#finish()
    else if (!this.#flushing) {
      this.#flushing = true
      queueMicrotask(() => this.#flush())
    }
  }

  #flush(): void {
    this.#flushing = false
    if (this.#over || this.#pending === '') return
    if (this.#blocked) {
      // UTF-16 units: a lower bound of the bytes, and cheap.
      if (this.#pending.length > this.#options.bufferBytes) this.#cutOff('lagged', this.#eventsPending)
      return
    }
    this.#blocked = !this.#options.response.write(this.#pending)
    this.#pending = ''
    this.#eventsPending = 0
  }

  #comment(): void {
    if (this.#over) return
    this.#pending += `: ${this.#options.comment()}\n\n`
    this.#flush()
    this.#keepAlive.refresh()
  }

  #cutOff(reason: 'lagged' | 'truncated', skipped: number): void {
    const error = reason === 'lagged' ? PREDICTION_ERRORS.STREAM_LAGGED : PREDICTION_ERRORS.REPLAY_TRUNCATED
    this.#pending = `event: error\ndata: ${stringifySorted({ error, skipped })}\n\n`
    this.#finish()
    this.#options.onLeave(reason)
  }

  /** Writes what is left, and waits a while for the reader to take it. */
  #finish(): void {
    this.#stop()
    const { response, schedule } = this.#options
    this.#linger = schedule(LINGER_MS, () => response.destroy())
    response.end(this.#pending)
    this.#pending = ''
  }

  #closed(): void {
    this.#linger?.cancel()
    if (this.#over) return
    this.#stop()
    this.#options.onLeave('closed')
  }

  #stop(): void {
    this.#over = true
    this.#unsubscribe()
    this.#keepAlive.cancel()
  }
}

function encodeEvent(event: PredictionEvent): string {
  // By far the most frequent event: its two keys are in order, and most chunks are text.
  if (event.name === 'output' && typeof event.data.chunk === 'string') {
    return `event: output\ndata: {"chunk":${JSON.stringify(event.data.chunk)},"index":${event.data.index}}\n\n`
  }
  return `event: ${event.name}\ndata: ${stringifySorted(event.data)}\n\n`
}
