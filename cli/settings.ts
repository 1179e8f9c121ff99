import { type ModelSettings, modelSettings, parseModelSettings } from '../model/settings.js'
import { parseServerSettings, type ServerSettings, serverSettings } from '../server/config.js'

/** The names of all settings of both sides. */
export const settingNames = [...Object.keys(serverSettings.shape), ...Object.keys(modelSettings.shape)]

/**
 * Checks the settings of both sides, so that a wrong one ends the process before anything has started.
 *
 * @throws {SettingError} {SettingsError} naming the variable, its value and what is legal.
 */
export function checkSettings(environment: NodeJS.ProcessEnv): { server: ServerSettings; model: ModelSettings } {
  return { server: parseServerSettings(environment), model: parseModelSettings(environment) }
}
