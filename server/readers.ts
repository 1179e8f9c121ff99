import type { FastifyReply } from 'fastify'
import { ServerError } from './errors.js'
import type { Prediction } from './prediction.js'
import type { Place, Schedule, Service } from './service.js'
import { streamPrediction } from './sse.js'

export interface StreamReadersOptions {
  readonly service: Service
  readonly schedule: Schedule
  /** Most bytes that wait for one reader. */
  readonly bufferBytes: number
  /** How many may read one prediction at a time. */
  readonly most: number
  /** How long a prediction goes on without a reader; 0: it is canceled at once, and events carry no ids. */
  readonly resumeMs: number
}

interface Readers {
  count: number
  /** Whether the prediction was started as a stream, and ends with its last reader. */
  isNeeded: boolean
  /** Cancels the prediction, unless a reader comes back before. */
  leaving?: { cancel(): void }
}

/** Who reads which prediction as a stream. One that was started as a stream ends when nobody reads it any more. */
export class StreamReaders {
  readonly #options: StreamReadersOptions
  readonly #readers = new WeakMap<Prediction, Readers>()

  constructor(options: StreamReadersOptions) {
    this.#options = options
  }

  /** Streams a prediction to the client who started it. */
  start(reply: FastifyReply, prediction: Prediction): void {
    this.#readers.set(prediction, { count: 0, isNeeded: true })
    if (this.#options.resumeMs > 0) void prediction.ended.then(() => this.#readers.get(prediction)?.leaving?.cancel())
    this.join(reply, prediction)
  }

  /**
   * Streams a prediction to one more reader.
   *
   * @param after number of the last event that this reader has; −1 is none.
   * @throws {ServerError} TOO_MANY_READERS.
   */
  join(reply: FastifyReply, prediction: Prediction, after = -1): void {
    const { service, schedule, bufferBytes, most, resumeMs } = this.#options
    if ((this.#readers.get(prediction)?.count ?? 0) >= most) throw ServerError.of('TOO_MANY_READERS', {})
    this.#count(prediction, 1)
    reply.hijack()
    streamPrediction({
      prediction,
      response: reply.raw,
      schedule,
      bufferBytes,
      after,
      ids: resumeMs > 0,
      waits: service.place(prediction) !== undefined,
      comment: () => queueComment(service.place(prediction)),
      onLeave: (reason) => {
        if (reason === 'lagged') reply.log.warn({ id: prediction.id }, 'stream cut off: its reader does not keep up')
        this.#count(prediction, -1)
      },
    })
  }

  #count(prediction: Prediction, change: 1 | -1): void {
    const readers = this.#readers.get(prediction) ?? { count: 0, isNeeded: false }
    this.#readers.set(prediction, readers)
    readers.count += change
    readers.leaving?.cancel()
    if (!readers.isNeeded || readers.count > 0 || prediction.isFinal) return
    const { service, schedule, resumeMs } = this.#options
    if (resumeMs === 0) service.cancel(prediction)
    else readers.leaving = schedule(resumeMs, () => service.cancel(prediction))
  }
}

/** What a quiet stream says: that it lives, or where it waits. */
function queueComment(place: Place | undefined): string {
  if (!place) return 'keep-alive'
  const estimate = place.estimateMs === undefined ? '' : `, about ${Math.ceil(place.estimateMs / 1000)} s`
  return `queued, position ${place.position}${estimate}`
}
