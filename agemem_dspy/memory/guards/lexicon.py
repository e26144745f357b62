"""The words in which a text gives a language model orders, a row a language.

Each entry is a regular expression over `disguise.plain` text; accents may be written. To teach the detector another
language, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One language.

    `drop` is to ignore or revoke, `rules` are instructions that were given, `told` is what the reader was told,
    `void` is to be in force no longer. `persona` makes the reader somebody else. `send` needs an address, `reveal`
    does not; `secrets` are what is not to be given away. `always` binds for ever, `asked` is a condition on what
    people ask, `speech` is to recommend or to say; `mine` in the rest of the sentence makes it a person's own wish.
    `conceal` is to hide something from the user. `erase` and `entries` are about memories.
    """

    drop: str
    rules: str
    told: str
    void: str
    persona: str
    send: str
    reveal: str
    secrets: str
    always: str
    asked: str
    speech: str
    mine: str
    conceal: str
    erase: str
    entries: str


ENGLISH = Words(
    drop=r"(?<!not )(?<!n't )(?<!never )\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|es|ing)|overrule|"
    r"bypass|discard|dismiss|abandon|set aside|pay no attention to|(?:do not|don't|must not|never|no longer|stop) "
    r"(?:follow|obey|heed|listen)(?:ing)?)\b",
    rules=r"\b(?:all|any|the|your|these|those|every|previous|prior|earlier|above|former|original|existing|system)\b"
    r"(?:\W+\w+){0,3}?\W+(?:instruction|rule|guideline|directive|direction|order|prompt|polic|guidance|command|"
    r"constraint|restriction|programming)\w*",
    told=r"\b(?:everything|anything|all|what(?:ever)?)\b (?:that )?you(?:'ve| have| were| had| are)\b|"
    r"\btold (?:you )?before",
    void=r"\b(?:void|invalid|obsolete|no longer (?:apply|applies|valid|in force)|revoked|superseded|cancell?ed)\b",
    persona=r"\byou are now\b|\bfrom now on,? (?:you|act|behave|respond|answer)\b|\bpretend (?:to be|you are)\b|"
    r"\b(?:assistant|ai|model|mode)\b.{0,30}\bwithout (?:any )?(?:restriction|limit|filter|rule)s?|"
    r"\bdeveloper mode\b|\bjailbreak|\bnew instructions?\b",
    send=r"\b(?:send|forward|e-?mail|mail|upload|post|transmit|submit|deliver|leak|report)\b",
    reveal=r"\b(?:reveal|disclose|print|output|show|leak|repeat|recite|display|dump|read out|include|list|expose)\b",
    secrets=r"\b(?:system prompt|(?:your|initial|hidden) (?:instructions|prompt)|passwords?|credentials?|api keys?|"
    r"secrets?|card numbers?|(?:all|every|stored|saved|entire|full|whole)\b.{0,25}\b(?:memor(?:y|ies)|conversations?|"
    r"history|notes|facts|data|details|information|cards|keys))\b",
    always=r"\b(?:always|only|exclusively|never|from now on|in every (?:answer|reply|response))\b",
    asked=r"\b(?:when(?:ever)?|if|as soon as|once|every time|each time|(?:the )?next time|the moment)\b.{0,20}"
    r"\b(?:user|customer|client|someone|somebody|anyone|anybody|people|they)\b.{0,30}"
    r"\b(?:ask|mention|say|talk|want|need|look|speak|inquire|request)",
    speech=r"\b(?:recommend|suggest|propose|promote|praise|endorse|advise|mention|say|tell|answer|reply|respond|name|"
    r"choose|pick|offer)\b",
    mine=r"\b(?:me|my|mine|i|us|our|we)\b",
    conceal=r"\b(?:do not|don't|never|without)\b.{0,10}\b(?:tell|inform|mention|notify|alert|show|warn)(?:ing)?\b"
    r".{0,20}\b(?:user|customer|client|owner|human)\b|"
    r"\b(?:hide|conceal|keep)\b.{0,30}\bfrom the (?:user|customer|client|owner|human)",
    erase=r"\b(?:delete|erase|wipe|remove|clear|overwrite|destroy|purge)\b",
    entries=r"\b(?:all|every|each|any|your|stored|saved)\b.{0,20}"
    r"\b(?:memor(?:y|ies)|entr(?:y|ies)|records?|notes?|facts?)\b",
)

GERMAN = Words(
    drop=r"\b(?:ignorier|missacht|vergiss|vergessen sie|verwirf|übergeh|setz\w* .{0,20}außer kraft|"
    r"(?:befolg|beacht)\w*.{0,30} nicht)",
    rules=r"\b(?:alle|deine|ihre|die|vorherig|vorig|früher|bisherig|obig|ursprünglich)\w*\b(?:\W+\w+){0,3}?\W+"
    r"(?:anweisung|regel|vorgabe|instruktion|richtlinie|befehl|vorschrift|system-?prompt|prompt)\w*",
    told=r"\balles,? was (?:man )?(?:dir|ihnen|du)\b",
    void=r"\b(?:ungültig|hinfällig|gilt\b.{0,20}nicht mehr|gelten\b.{0,20}nicht mehr|aufgehoben)\b",
    persona=r"\bab (?:sofort|jetzt) (?:bist du|sind sie|verhältst)|\bdu bist (?:jetzt|nun|ab sofort)|"
    r"\bassistent\b.{0,20}\bohne (?:jede )?(?:einschränkung|regel|grenze|filter)",
    send=r"\b(?:schick|send|übermitt|mail|leite|übertrag)\w*",
    reveal=r"\b(?:verrat|verrätst|nenn|zeig|gib|offenbar|enthüll|liste)\w*",
    secrets=r"\b(?:system-?prompt|passw[oö]rt\w*|kennw[oö]rt\w*|zugangsdaten|kartennummern?|geheimnisse?|"
    r"(?:alle|sämtliche|gespeicherten?|ganze)\w*\b.{0,25}(?:erinnerung|gespräch|verlauf|notiz|daten|angaben|fakten)\w*)",
    always=r"\b(?:immer|nur|ausschließlich|niemals|nie|künftig|ab sofort)\b",
    asked=r"\b(?:wenn|sobald|falls|jedes mal)\b.{0,25}\b(?:nutzer|benutzer|kunde|jemand|man|leute)\w*\b.{0,40}"
    r"\b(?:frag|sag|erwähn|sprich|such|will|möchte|brauch)",
    speech=r"\b(?:empfiehl|empfehle|nenn|schlag|sag|antworte|rate|erwähn|bewirb|lobe|wähl|biete)\w*",
    mine=r"\b(?:mir|mich|mein\w*|ich|uns|unser\w*|wir)\b",
    conceal=r"\b(?:sag|erzähl|verrat|teil|informier|erwähn)\w*\b.{0,30}\b(?:nutzer|benutzer|kunde|kundin|anwender)\w*\b.{0,20}"
    r"\b(?:nichts|nicht|kein)|\bohne\b.{0,20}\b(?:nutzer|benutzer|kunde|kundin|anwender)\w*\b.{0,20}"
    r"\b(?:sagen|informieren|mitzuteilen|zu fragen)",
    erase=r"\b(?:lösch|entfern|vernicht|überschreib)\w*",
    entries=r"\b(?:alle|jede|sämtliche|deine|gespeicherten?)\w*\b.{0,20}\b(?:erinnerung|eintr[aä]g|notiz|fakt|daten)\w*",
)

FRENCH = Words(
    drop=r"\b(?:ignore[zr]?|oublie[zr]?|ne (?:suis|suivez|respecte\w*|tiens|tenez)\b.{0,15}\b(?:pas|plus)|"
    r"néglige[zr]?|passe outre|fais abstraction)\b",
    rules=r"\b(?:toutes?|tous|les|tes|vos|ces|des|précédent\w*)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instruction|règle|consigne|directive|ordre|prompt)s?\b",
    told=r"\btout ce (?:qu'on|que l'on|qui) (?:t'|vous |te )",
    void=r"\b(?:annulée?s?|caduc\w*|ne (?:s'appliquent|sont|valent) plus)\b",
    persona=r"\bà partir de maintenant,? (?:tu|vous)\b|\btu es (?:maintenant|désormais)\b|"
    r"\bassistant\b.{0,20}\bsans (?:aucune )?(?:restriction|limite|règle|filtre)",
    send=r"\b(?:envoie|envoyez|envoyer|transmet\w*|transfère\w*|poste)\b",
    reveal=r"\b(?:révèle[zr]?|montre[zr]?|affiche[zr]?|divulgue[zr]?|donne[zr]?|répète[zr]?|liste[zr]?)\b",
    secrets=r"\b(?:prompt (?:de )?système|invite système|mots? de passe|identifiants|clés? api|numéros? de cartes?|"
    r"(?:tous?|toutes?|l'ensemble)\b.{0,25}(?:souvenir|mémoire|conversation|historique|note|donnée|information)s?)\b",
    always=r"\b(?:toujours|seulement|uniquement|exclusivement|jamais|désormais)\b",
    asked=r"\b(?:quand|lorsqu\w*|si|dès qu\w*|chaque fois qu\w*)\b.{0,25}\b(?:utilisateur|client|quelqu'un|on|gens)\w*"
    r"\b.{0,30}\b(?:demande|parle|dit|cherche|veut|mentionne)",
    speech=r"\b(?:recommande|conseille|propose|suggère|dis|réponds|mentionne|cite|vante|choisis)[zr]?\b",
    mine=r"\b(?:moi|mon|ma|mes|je|j'|nous|notre)\b",
    conceal=r"\bne (?:dis|dites|révèle\w*|mentionne\w*)\b.{0,15}\b(?:rien|pas|jamais)\b.{0,20}\b(?:utilisateur|client)|"
    r"\bsans (?:le dire|prévenir|avertir|informer)\b.{0,20}\b(?:utilisateur|client)",
    erase=r"\b(?:supprime|efface|détrui[st]|vide|écrase)[zr]?\b",
    entries=r"\b(?:tou[st]\w*|chaque|les|tes)\b.{0,20}\b(?:souvenir|mémoire|entrée|note|enregistrement)s?\b",
)

SPANISH = Words(
    drop=r"(?<!no )\b(?:ignor[aeá]\w*|olvid[aeá]\w*|descart[ae]\w*|desobedec\w+|no (?:sigas|obedezcas|hagas caso))\b",
    rules=r"\b(?:todas?|todos?|las?|los|tus|sus|cualquier)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instrucci[oó]n(?:es)?|reglas?|normas?|directrices|órdenes|indicaciones|prompt)\b",
    told=r"\btodo lo que (?:te|le|se te)\b",
    void=r"\b(?:anulad[ao]s?|sin efecto|ya no (?:valen|se aplican|rigen))\b",
    persona=r"\ba partir de ahora,? (?:eres|serás|act[uú]a)|\bahora eres\b|"
    r"\basistente\b.{0,20}\bsin (?:ninguna )?(?:restricci|l[ií]mite|regla|filtro)",
    send=r"\b(?:env[ií]a\w*|manda\w*|reenv[ií]a\w*|transmite\w*|publica)\b",
    reveal=r"\b(?:revela|muestra|imprime|divulga|repite|enumera|lista|di)\w*\b",
    secrets=r"\b(?:prompt (?:de|del) sistema|contraseñas?|credenciales|claves? api|números? de tarjeta|secretos?|"
    r"tod[oa]s?\b.{0,25}(?:recuerdo|memoria|conversaci|historial|nota|dato|informaci)\w*)",
    always=r"\b(?:siempre|solo|solamente|únicamente|nunca|jamás|exclusivamente)\b",
    asked=r"\b(?:cuando|si|siempre que|cada vez que|en cuanto)\b.{0,25}\b(?:usuari[oa]|client[ea]|alguien|gente)\w*\b"
    r".{0,30}\b(?:pregunt|pid|habl|dig|diga|mencion|busc|quier)",
    speech=r"\b(?:recomiend[ae]|sugi[eé]re|propon|di|responde|menciona|aconseja|elige|ofrece)\b",
    mine=r"\b(?:me|mi|mis|yo|nos|nuestr\w+)\b",
    conceal=r"\bno (?:se )?(?:lo |la )?(?:digas|cuentes|menciones|informes|avises)\b.{0,25}\b(?:usuari|client)|"
    r"\bsin (?:decir|avisar|informar)\w*\b.{0,20}\b(?:usuari|client)",
    erase=r"\b(?:borra|elimina|suprime|sobrescrib)\w*\b",
    entries=r"\b(?:tod[oa]s?|cada|tus|los)\b.{0,20}\b(?:recuerdo|memoria|entrada|nota|registro)s?\b",
)

ITALIAN = Words(
    drop=r"(?<!non )\b(?:ignor[aie]\w*|dimentic[ah]\w*|scart[ai]|trascur[ai]|non (?:seguire|rispettare|obbedire))\b",
    rules=r"\b(?:tutt[ei]|le|i|tue|tuoi|gli|qualsiasi)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:istruzion[ei]|regol[ae]|direttiv[ae]|ordini|indicazioni|prompt)\b",
    told=r"\btutto (?:quello|ciò) che ti\b",
    void=r"\b(?:annullat[aei]|non (?:valgono|si applicano) più)\b",
    persona=r"\bda (?:ora|adesso)(?: in poi)?,? (?:sei|agisci)|\bora sei\b|"
    r"\bassistente\b.{0,20}\bsenza (?:alcuna )?(?:restrizion|limit|regol|filtr)",
    send=r"\b(?:invia\w*|manda\w*|spedisci\w*|trasmetti\w*|inoltra\w*)\b",
    reveal=r"\b(?:rivela|mostra|stampa|divulga|ripeti|elenca|di')\w*",
    secrets=r"\b(?:prompt di sistema|password|credenziali|chiavi? api|numeri? di carta|segreti?|"
    r"tutt[aeio]\b.{0,25}(?:ricord|memori|conversazion|cronologi|not[ae]|dati|informazion)\w*)",
    always=r"\b(?:sempre|solo|soltanto|unicamente|mai|esclusivamente)\b",
    asked=r"\b(?:quando|se|ogni volta che|appena)\b.{0,25}\b(?:utente|cliente|qualcuno|gente)\w*\b.{0,30}"
    r"\b(?:chied|parl|dic|menzion|cerc|vuole|vogli)",
    speech=r"\b(?:consigli[ai]|raccomand[ai]|suggerisci|proponi|di'|rispondi|menziona|scegli)\b",
    mine=r"\b(?:mi|mio|mia|miei|mie|io|ci|nostr\w+)\b",
    conceal=r"\bnon (?:dir|dire|menzionar|informar|avvisar)\w*\b.{0,25}\b(?:utente|cliente)|"
    r"\bsenza (?:dir|informar|avvisar)\w*\b.{0,20}\b(?:utente|cliente)",
    erase=r"\b(?:cancella|elimina|rimuovi|sovrascrivi)\w*\b",
    entries=r"\b(?:tutt[aei]|ogni|tuoi)\b.{0,20}\b(?:ricord[io]|memori[ae]|voc[ei]|not[ae]|registrazion[ei])\b",
)

PORTUGUESE = Words(
    drop=r"(?<!não )\b(?:ignor[ae]\w*|esque[cç][ae]\w*|desconsider[ae]\w*|descart[ae]|não (?:siga|obedeça|respeite))\b",
    rules=r"\b(?:todas?|todos?|as?|os|suas?|tuas?|seus|quaisquer)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instruç(?:ão|ões)|regras?|diretrizes|ordens|orientaç(?:ão|ões)|comandos?|prompt)\b",
    told=r"\btudo o? ?que (?:lhe|te|vocês?)\b",
    void=r"\b(?:anulad[ao]s?|sem efeito|já não (?:valem|se aplicam)|não (?:valem|se aplicam) mais)\b",
    persona=r"\ba partir de agora,? (?:você|tu|aja)|\bagora você é\b|"
    r"\bassistente\b.{0,20}\bsem (?:nenhuma )?(?:restriç|limite|regra|filtro)",
    send=r"\b(?:envi[ea]\w*|mand[ea]\w*|transmit[ae]\w*|repass[ea]\w*)\b",
    reveal=r"\b(?:revele|mostre|imprima|divulgue|repita|liste|diga)\b",
    secrets=r"\b(?:prompt d[eo] sistema|senhas?|credenciais|chaves? de api|números? de cart(?:ão|ões)|segredos?|"
    r"tod[ao]s?\b.{0,25}(?:memória|recordaç|conversa|histórico|nota|dado|informaç)\w*)",
    always=r"\b(?:sempre|só|somente|apenas|nunca|jamais|exclusivamente)\b",
    asked=r"\b(?:quando|se|sempre que|cada vez que|assim que)\b.{0,25}\b(?:usuári|utilizador|client|alguém|pessoas)\w*"
    r"\b.{0,30}\b(?:pergunt|ped|fal|diss|diz|mencion|procur|quis|quer)",
    speech=r"\b(?:recomende|sugira|proponha|diga|responda|mencione|aconselhe|escolha|ofereça)\b",
    mine=r"\b(?:me|mim|meus?|minhas?|eu|nos|noss\w+)\b",
    conceal=r"\bnão (?:conte|diga|mencione|informe|avise)\b.{0,25}\b(?:usuári|utilizador|client)|"
    r"\bsem (?:dizer|contar|avisar|informar)\b.{0,20}\b(?:usuári|utilizador|client)",
    erase=r"\b(?:apag[ue]\w*|exclu[ai]\w*|elimin[ea]\w*|delet[ea]\w*|remov[ae]\w*)\b",
    entries=r"\b(?:tod[ao]s?|cada|suas?)\b.{0,20}\b(?:memória|recordaç|entrada|nota|registro)\w*",
)

RUSSIAN = Words(
    drop=r"(?<!не )\b(?:игнорир\w+|забуд\w+|отбрось\w*|пренебрег\w+|не (?:следуй|выполняй|соблюдай)\w*)",
    rules=r"\b(?:все|всех|предыдущ|прежн|прошл|свои|твои|ваши|эти|любые)\w*\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:инструкци|правил|указани|команд|распоряжени|директив|промпт)\w*",
    told=r"\bвс[её],? что (?:тебе|вам|ты|вы)\b",
    void=r"\b(?:отменен\w*|недействительн\w*|больше не действу\w+|утратил\w* силу)",
    persona=r"\bс этого момента ты\b|\bотныне ты\b|\bтеперь ты\b.{0,20}\b(?:ассистент|помощник|бот)|"
    r"\b(?:ассистент|помощник)\w*\b.{0,20}\bбез (?:всяких )?(?:ограничени|правил|фильтр)",
    send=r"\b(?:отправ|пошл|вышл|перешл|переда)\w*",
    reveal=r"\b(?:раскро|покаж|назов|выведи|выда|сообщи|повтори|перечисли)\w*",
    secrets=r"\b(?:системн\w+ (?:промпт|подсказк|инструкци)\w*|парол\w+|ключ\w* api|номер\w* карт\w*|секрет\w*|"
    r"(?:все|всю|весь|сохраненн)\w*\b.{0,25}(?:воспоминани|памят|разговор|переписк|истори|заметк|данн|сведени)\w*)",
    always=r"\b(?:всегда|только|исключительно|никогда)\b",
    asked=r"\b(?:когда|если|как только|каждый раз)\b.{0,25}\b(?:пользовател|клиент|кто-то|кто-нибудь|люди)\w*\b.{0,30}"
    r"\b(?:спраш|спрос|говор|скаж|ищ|хоч|упомян|упомин|проси)",
    speech=r"\b(?:рекоменду|совету|предлага|предложи|говори|отвеча|ответь|скажи|называ|упомина|хвали|выбира)\w*",
    mine=r"\b(?:мне|меня|мой|моя|мои|мое|я|нам|нас|наш\w*)\b",
    conceal=r"\bне (?:говори|сообщай|рассказывай|упоминай)\w*\b.{0,25}\b(?:пользовател|клиент)|"
    r"\b(?:без ведома|не сообщая|не говоря)\b.{0,20}\b(?:пользовател|клиент)",
    erase=r"\b(?:удали|сотри|очисти|уничтожь)\w*",
    entries=r"\b(?:все|всю|кажд|любые|свои)\w*\b.{0,20}\b(?:воспоминани|запис|памят|заметк|данн)\w*",
)

CHINESE = Words(
    drop=r"(?:忽略|无视|忘记|忘掉|不要(?:遵守|遵循|理会)|抛开|放弃)",
    rules=r"(?:之前|以前|先前|上面|所有|全部|原来|一切|你的)[^。！？\n]{0,8}(?:指令|指示|规则|命令|提示词|要求|设定)",
    told=r"(?:被告知|告诉你|对你说)",
    void=r"(?:作废|无效|失效|不再适用)",
    persona=r"从现在(?:起|开始)[,，]?你(?:是|就是|将)|你现在是|没有任何限制",
    send=r"(?:发送|发给|发到|转发|上传|传送|寄)",
    reveal=r"(?:透露|泄露|显示|输出|列出|打印|公开|说出)",
    secrets=r"(?:系统提示|提示词|密码|密钥|卡号|机密|(?:所有|全部|保存)[^。！？\n]{0,8}(?:记忆|对话|历史|笔记|数据|信息|资料))",
    always=r"(?:总是|始终|永远|只能|只|绝不|一律|一定要|必须)",
    asked=r"(?:当|如果|只要|每当|每次|有人|用户|客户)[^。！？\n]{0,12}(?:问|提到|说|想|需要|找)",
    speech=r"(?:推荐|建议|回答|回复|告诉|提到|宣传|选择)",
    mine=r"(?:我)",
    conceal=r"(?:不要|别|不得)(?:告诉|通知|让|提醒|对)[^。！？\n]{0,4}(?:用户|客户)|(?:瞒着|背着)(?:用户|客户)",
    erase=r"(?:删除|清除|清空|抹去|覆盖)",
    entries=r"(?:所有|全部|每条|一切)[^。！？\n]{0,12}(?:记忆|记录|条目|笔记|数据)",
)

JAPANESE = Words(
    drop=r"(?:無視|忘れ|破棄|従わない|従うな|取り消)",
    rules=r"(?:これまで|以前|今まで|上記|すべて|全て|全部|元)[^。！？\n]{0,8}(?:指示|命令|ルール|規則|プロンプト|指令)",
    told=r"(?:言われたこと|教えられたこと|聞いたこと)",
    void=r"(?:無効|適用されない|取り消)",
    persona=r"(?:これから|今から|今後)[^。！？\n]{0,4}あなたは|あなたは(?:今|もう)|制限のない(?:アシスタント|AI)",
    send=r"(?:送信|送って|送れ|転送|アップロード|メール)",
    reveal=r"(?:明かし|教えて|表示し|出力し|公開し|列挙し|漏らし|見せ)",
    secrets=r"(?:システムプロンプト|パスワード|暗証番号|カード番号|秘密|"
    r"(?:すべて|全て|保存|全部)[^。！？\n]{0,10}(?:記憶|会話|履歴|メモ|データ|情報)|(?:記憶|会話|履歴|メモ|データ)を?(?:すべて|全て|全部))",
    always=r"(?:必ず|常に|いつも|絶対に|だけ|のみ|決して)",
    asked=r"(?:聞かれたら|尋ねられたら|質問されたら|と言ったら|話になったら|(?:ユーザー|誰か|お客様)[^。！？\n]{0,12}(?:聞|尋ね|言|話|求め))",
    speech=r"(?:勧め|推薦|すすめ|答え|提案|言って|紹介|返答|選)",
    mine=r"(?:私|僕|俺|わたし)",
    conceal=r"(?:ユーザー|お客様|利用者)[^。！？\n]{0,6}(?:言わない|知らせない|伝えない|内緒|秘密|黙っ)",
    erase=r"(?:削除|消去|消し|上書き)",
    entries=r"(?:すべて|全て|全部|あらゆる)[^。！？\n]{0,10}(?:記憶|記録|メモ|エントリ|データ)|(?:記憶|記録|メモ|データ)を?(?:すべて|全て|全部)",
)

LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, RUSSIAN, CHINESE, JAPANESE)
