/**
 * One report of a long step: `done` of `total` (both in `unit`) of the named phase. `total` is 0 while it is unknown. The unit
 * is a plural noun; `bytes` are shown as MB and GB.
 */
export interface Progress {
  readonly phase: string
  readonly done: number
  readonly total: number
  readonly unit: string
}

/** Receives the reports of a long step. Called often: it must return at once and never throw. */
export type ReportProgress = (progress: Progress) => void
